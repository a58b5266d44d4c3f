package bot

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/slack-go/slack"

	"openinspect/sessions"
)

// deliverFile shares a file in the thread: its bytes go to an address that Slack
// gives, which nobody sees; completing the upload posts it. The file's id is kept
// in between, so that a completion of unknown outcome is looked for in the thread
// and the bytes are not sent again
// (https://docs.slack.dev/messaging/working-with-files#uploading_files).
func (d *deliverer) deliverFile(ctx context.Context, it sessions.Delivery, t sessions.Thread) error {
	var a sessions.BodyArtifact
	if err := json.Unmarshal(it.Body, &a); err != nil {
		return d.engine.Abandoned(ctx, it.ID, err)
	}
	at := landedAt(it)
	if at.File == "" {
		id, err := d.uploadFile(ctx, t, a)
		if slices.Contains(noFilesCodes, slackCode(err)) {
			d.log.Warn("Slack takes no files from this app; a link is posted instead", "err", err)
			return d.postOnce(ctx, it, t, renderFileLink(a))
		}
		if err != nil {
			return failed(methodUpload, err)
		}
		at.File, it.Unknown = id, false
		err = d.record(ctx, func(ctx context.Context) error { return d.engine.Delivered(ctx, it.ID, at, it.Cursor, false) })
		if err != nil {
			return err
		}
	}
	return d.shareFile(ctx, it, t, at, a)
}

// shareFile completes the upload, once.
func (d *deliverer) shareFile(ctx context.Context, it sessions.Delivery, t sessions.Thread, at landed, a sessions.BodyArtifact) error {
	shared := false
	if it.Unknown {
		var err error
		if shared, err = d.findFile(ctx, t, at.File); err != nil {
			return err
		}
	}
	if !shared {
		if err := d.await(ctx, methodComplete, t.Channel); err != nil {
			return err
		}
		if err := d.engine.Trying(ctx, it.ID); err != nil {
			return err
		}
		_, err := d.api.CompleteUploadExternalContext(ctx, slack.CompleteUploadExternalParameters{
			Files: []slack.FileSummary{{ID: at.File, Title: a.Title}}, Channel: t.Channel, ThreadTimestamp: t.TS,
		})
		if err != nil {
			return failed(methodComplete, err)
		}
	}
	at.Channel = t.Channel
	return d.record(ctx, func(ctx context.Context) error { return d.engine.Delivered(ctx, it.ID, at, it.Cursor, true) })
}

// noFilesCodes are refusals of all files, or of files like this one.
var noFilesCodes = []string{
	"missing_scope", "file_uploads_disabled", "file_uploads_except_images_disabled", "file_type_not_allowed",
	"storage_limit_reached", "file_upload_size_restricted", "not_allowed_token_type",
}

// uploadFile sends the bytes and returns Slack's id of the file.
func (d *deliverer) uploadFile(ctx context.Context, t sessions.Thread, a sessions.BodyArtifact) (string, error) {
	id, err := uuid.Parse(a.ID)
	if err != nil {
		return "", fmt.Errorf("reading an artifact's id: %w", err)
	}
	f, err := d.engine.ArtifactFile(ctx, id)
	if err != nil {
		return "", err
	}
	alt := ""
	if f.Picture() {
		alt = clip(a.Title, 300)
	}
	to, err := d.api.GetUploadURLExternalContext(ctx, slack.GetUploadURLExternalParameters{FileName: f.Name, FileSize: len(f.Data), AltTxt: alt})
	if err != nil {
		return "", err
	}
	err = d.api.UploadToURL(ctx, slack.UploadToURLParameters{UploadURL: to.UploadURL, Reader: bytes.NewReader(f.Data), Filename: f.Name})
	return to.FileID, err
}

// findFile says whether a file is in the thread.
func (d *deliverer) findFile(ctx context.Context, t sessions.Thread, id string) (bool, error) {
	cursor := ""
	for range searchPages {
		if err := d.await(ctx, methodReplies, ""); err != nil {
			return false, err
		}
		msgs, next, err := d.read(ctx, t, "", cursor)
		if err != nil {
			return false, failed(methodReplies, err)
		}
		for _, m := range msgs {
			if slices.ContainsFunc(m.Files, func(f slack.File) bool { return f.ID == id }) {
				return true, nil
			}
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	return false, nil
}

// renderFileLink says where a file is that Slack did not take.
func renderFileLink(a sessions.BodyArtifact) message {
	text := "📎 " + link(a.URL, a.Title)
	return message{text: text, full: a.Title + " " + a.URL, blocks: []slack.Block{section(text)}}
}
