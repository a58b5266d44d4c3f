package supervisor

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
)

func TestASecretIsFoundInWhateverShape(t *testing.T) {
	t.Parallel()
	const key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\nVJTUt9Us8cKjMzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuictGeurT8jNb\n-----END PRIVATE KEY-----\n"
	v := newVault([]string{"KEY=" + key, `ACCOUNT={"type": "service_account", "token_uri": "https://accounts.example/o/oauth2/token",
		"private_key": "-----BEGIN PRIVATE KEY-----\nMIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQDZ\n-----END PRIVATE KEY-----\n"}`,
		"LEVEL=not-a-secret", sandbox.EnvSecrets + "=KEY,ACCOUNT"})
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("whole", key)
	write("one line", "x VJTUt9Us8cKjMzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuictGeurT8jNb y")
	write("windows", strings.ReplaceAll(key, "\n", "\r\n"))
	write("base64", base64.StdEncoding.EncodeToString([]byte("prefix"+strings.TrimSpace(key))))
	write("field", "-----BEGIN PRIVATE KEY-----\nMIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQDZ\n")
	write("far", strings.Repeat("x", 1<<20-10)+key)
	write("another key", "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC8\n")
	write("about accounts", `{"type": "service_account", "token_uri": "https://accounts.example/o/oauth2/token"}`)
	write("not a secret", "not-a-secret")
	found, err := v.scan(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range found {
		names = append(names, f.secret+" in "+filepath.Base(f.path))
	}
	want := []string{"KEY in base64", "KEY in far", "ACCOUNT in field", "KEY in one line", "KEY in whole", "KEY in windows"}
	if !slices.Equal(names, want) {
		t.Errorf("found %q, want %q", names, want)
	}
}

func TestOnlyWhatChangedIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	v := newVault([]string{"KEY=a-secret-value", sandbox.EnvSecrets + "=KEY"})
	dir := t.TempDir()
	look := func() []find {
		found, err := v.scan(context.Background(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if err := os.WriteFile(filepath.Join(dir, "old"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	look()
	if v.checked.IsZero() {
		t.Error("a look that found nothing is not remembered")
	}
	old := filepath.Join(dir, "later")
	if err := os.WriteFile(old, []byte("a-secret-value"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(old, time.Unix(1, 0), time.Unix(1, 0)); err != nil { // as cp -p, tar and git do
		t.Fatal(err)
	}
	for range 2 { // a find is not forgotten by looking at it
		if found := look(); len(found) != 1 || found[0].path != old {
			t.Errorf("found %+v", found)
		}
	}
}

func TestALookThatCannotSeeEverythingSaysSo(t *testing.T) {
	t.Parallel()
	v := newVault([]string{"KEY=a-secret-value", sandbox.EnvSecrets + "=KEY"})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.scan(ctx, dir); err == nil || !v.checked.IsZero() {
		t.Errorf("a look that was broken off passes as one that found nothing (%v)", err)
	}
}

// A file that takes minutes to look through does not hold up what ends the look.
func TestALookAtAHugeFileCanBeGivenUp(t *testing.T) {
	t.Parallel()
	v := newVault([]string{"KEY=a-secret-value", sandbox.EnvSecrets + "=KEY"})
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge")
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := v.scan(ctx, dir)
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the look ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		os.Truncate(huge, 0)
		<-ended
		t.Error("the look goes on")
	}
}

// BenchmarkLookingForSecrets measures a look through 100,000 files, most of them
// small as those of node_modules are, and one after 100 of them were changed.
func BenchmarkLookingForSecrets(b *testing.B) {
	dir := b.TempDir()
	words := bytes.Repeat([]byte("export function connect(options) { return new Client(options) }\n"), 64)
	for i := range 100_000 {
		at := filepath.Join(dir, fmt.Sprintf("package-%d", i/100))
		if i%100 == 0 {
			if err := os.Mkdir(at, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(at, fmt.Sprintf("file-%d.js", i%100)), words[:rand.IntN(len(words))], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	var environ, names []string
	for i := range 10 {
		names = append(names, fmt.Sprintf("SECRET_%d", i))
		environ = append(environ, fmt.Sprintf("SECRET_%d=%x", i, rand.Uint64()))
	}
	environ = append(environ, sandbox.EnvSecrets+"="+strings.Join(names, ","))
	look := func(v *vault) time.Duration {
		began := time.Now()
		if found, err := v.scan(context.Background(), dir); err != nil || len(found) > 0 {
			b.Fatal(found, err)
		}
		return time.Since(began)
	}
	var whole, again []time.Duration
	for b.Loop() {
		v := newVault(environ)
		whole = append(whole, look(v))
		v.checked = v.checked.Add(margin)
		for i := range 100 {
			if err := os.Chmod(filepath.Join(dir, fmt.Sprintf("package-%d", i), "file-0.js"), 0o644); err != nil {
				b.Fatal(err)
			}
		}
		again = append(again, look(v))
	}
	b.ReportMetric(percentile(whole, 0.5), "p50-ms-whole")
	b.ReportMetric(percentile(again, 0.5), "p50-ms-again")
}
