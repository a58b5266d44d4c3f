package slack

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Limits of blocks. maxBlockText is what messages were found to accept as the
// sum over all blocks; the others are documented.
const (
	maxMessageBlocks = 50
	maxViewBlocks    = 100
	maxBlockText     = 13200
	maxMarkdown      = 12000
)

// surface is where blocks are shown.
type surface string

const (
	inMessage surface = "message"
	inModal   surface = "modal"
	inHome    surface = "home"
)

// blockCheck collects what is wrong with blocks, in Slack's words.
type blockCheck struct {
	where    surface
	problems []string
	seen     map[string]bool // block ids
	markdown int
	tables   int
}

func (k *blockCheck) bad(path, format string, a ...any) {
	k.problems = append(k.problems, fmt.Sprintf("[ERROR] "+format, a...)+" [json-pointer:"+path+"]")
}

// checkBlocks validates blocks and gives ids to those that have none.
func checkBlocks(raw string, where surface) (json.RawMessage, error) {
	var list []object
	if err := json.Unmarshal([]byte(raw), &list); err != nil {
		return nil, fail("invalid_blocks_format")
	}
	if len(list) == 0 {
		return nil, nil
	}
	k := &blockCheck{where: where, seen: map[string]bool{}}
	most := maxMessageBlocks
	if where != inMessage {
		most = maxViewBlocks
	}
	if len(list) > most {
		k.bad("/blocks", "no more than %d items allowed", most)
	}
	k.blocks("/blocks", list)
	if len(k.problems) > 0 {
		return nil, failWith("invalid_blocks", k.problems...)
	}
	if where == inMessage && (textLength(list) > maxBlockText || k.markdown > maxMarkdown) {
		return nil, fail("msg_blocks_too_long")
	}
	return json.Marshal(list)
}

func (k *blockCheck) blocks(path string, list []object) {
	for i, b := range list {
		k.block(fmt.Sprintf("%s/%d", path, i), b)
	}
}

func (k *blockCheck) block(path string, b object) {
	check, known := blockChecks[str(b, "type")]
	if !known {
		k.bad(path+"/type", "unsupported type: %s", str(b, "type"))
		return
	}
	id := str(b, "block_id")
	switch {
	case id == "":
		id = blockID(path, b)
		b["block_id"] = id
	case len(id) > 255:
		k.bad(path+"/block_id", "must be less than 256 characters")
	case k.seen[id]:
		k.bad(path+"/block_id", "block_id already exists: %s", id)
	}
	k.seen[id] = true
	check(k, path, b)
}

// blockID names a block by its place and content: unlike Slack's random ids, a
// block that an edit leaves alone keeps its id, and so its node in the page.
func blockID(path string, b object) string {
	raw, err := json.Marshal(b)
	if err != nil {
		return secret(4) // what came as JSON always encodes
	}
	sum := sha256.Sum256(append([]byte(path), raw...))
	return hex.EncodeToString(sum[:4])
}

// blockChecks is every kind of block that is known, with its rules.
var blockChecks map[string]func(*blockCheck, string, object)

func init() { // the table and blockCheck.block refer to each other
	blockChecks = map[string]func(*blockCheck, string, object){
		"section": (*blockCheck).section, "header": (*blockCheck).header, "context": (*blockCheck).context,
		"actions": (*blockCheck).actions, "context_actions": (*blockCheck).contextActions, "input": (*blockCheck).input,
		"markdown": (*blockCheck).markdownBlock, "image": (*blockCheck).image, "rich_text": (*blockCheck).richText,
		"task_card": (*blockCheck).taskCard, "plan": (*blockCheck).plan, "table": (*blockCheck).table,
		"container": (*blockCheck).container, "alert": (*blockCheck).alert,
		"divider":    func(*blockCheck, string, object) {},
		"video":      func(*blockCheck, string, object) {},
		"file":       func(*blockCheck, string, object) {},
		"data_table": (*blockCheck).table, "card": (*blockCheck).card, "carousel": (*blockCheck).carousel,
	}
}

func (k *blockCheck) section(path string, b object) {
	fields := objects(b["fields"])
	if b["text"] == nil && len(fields) == 0 {
		k.bad(path, "missing required field: text")
	}
	k.text(path+"/text", b["text"], 3000, "")
	if len(fields) > 10 {
		k.bad(path+"/fields", "no more than 10 items allowed")
	}
	for i, f := range fields {
		k.text(fmt.Sprintf("%s/fields/%d", path, i), f, 2000, "")
	}
	if a, ok := b["accessory"].(object); ok {
		k.element(path+"/accessory", a)
	}
}

func (k *blockCheck) header(path string, b object) {
	k.required(path, b, "text")
	k.text(path+"/text", b["text"], 150, "plain_text")
}

func (k *blockCheck) context(path string, b object) {
	list := k.elements(path, b, 10)
	for i, e := range list {
		if t := str(e, "type"); t == "image" {
			k.image(fmt.Sprintf("%s/elements/%d", path, i), e)
		} else {
			k.text(fmt.Sprintf("%s/elements/%d", path, i), e, 3000, "")
		}
	}
}

func (k *blockCheck) actions(path string, b object) {
	for i, e := range k.elements(path, b, 25) {
		k.element(fmt.Sprintf("%s/elements/%d", path, i), e)
	}
}

func (k *blockCheck) contextActions(path string, b object) {
	for i, e := range k.elements(path, b, 5) {
		k.element(fmt.Sprintf("%s/elements/%d", path, i), e)
	}
}

func (k *blockCheck) elements(path string, b object, most int) []object {
	list := objects(b["elements"])
	if len(list) == 0 {
		k.bad(path+"/elements", "must contain at least 1 item")
	}
	if len(list) > most {
		k.bad(path+"/elements", "no more than %d items allowed", most)
	}
	return list
}

func (k *blockCheck) input(path string, b object) {
	k.required(path, b, "label", "element")
	k.text(path+"/label", b["label"], 2000, "plain_text")
	k.text(path+"/hint", b["hint"], 2000, "plain_text")
	if e, ok := b["element"].(object); ok {
		if str(e, "type") == "file_input" && k.where != inModal {
			k.bad(path+"/element", "file_input is for modals only")
		}
		k.element(path+"/element", e)
	}
}

func (k *blockCheck) markdownBlock(path string, b object) {
	n := utf8.RuneCountInString(str(b, "text"))
	k.markdown += n
	if n == 0 {
		k.bad(path+"/text", "must be more than 0 characters")
	}
	if n > maxMarkdown {
		k.bad(path+"/text", "must be less than %d characters", maxMarkdown+1)
	}
}

func (k *blockCheck) image(path string, b object) {
	k.required(path, b, "alt_text")
	if str(b, "image_url") == "" && b["slack_file"] == nil {
		k.bad(path, "missing required field: image_url")
	}
	if len(str(b, "image_url")) > 3000 {
		k.bad(path+"/image_url", "must be less than 3001 characters")
	}
}

func (k *blockCheck) richText(path string, b object) {
	for i, e := range k.elements(path, b, 1000) {
		kinds := []string{"rich_text_section", "rich_text_list", "rich_text_preformatted", "rich_text_quote"}
		if !slices.Contains(kinds, str(e, "type")) {
			k.bad(fmt.Sprintf("%s/elements/%d/type", path, i), "unsupported type: %s", str(e, "type"))
		}
	}
}

func (k *blockCheck) taskCard(path string, b object) {
	k.required(path, b, "task_id", "title")
	if st := str(b, "status"); st != "" && !slices.Contains(taskStates, st) {
		k.bad(path+"/status", "must be one of pending, in_progress, complete, error")
	}
	for _, name := range []string{"details", "output"} {
		if part, ok := b[name].(object); ok {
			k.richText(path+"/"+name, part)
		} else if b[name] != nil {
			k.bad(path+"/"+name, "must be a rich_text block")
		}
	}
}

func (k *blockCheck) plan(path string, b object) {
	k.required(path, b, "title")
	for i, t := range objects(b["tasks"]) {
		k.taskCard(fmt.Sprintf("%s/tasks/%d", path, i), t)
	}
}

func (k *blockCheck) table(path string, b object) {
	k.tables++
	if k.tables > 1 && k.where == inMessage {
		k.bad(path, "only one table is allowed in a message")
	}
	rows, _ := b["rows"].([]any)
	if len(rows) == 0 || len(rows) > 100 {
		k.bad(path+"/rows", "must contain 1 to 100 items")
	}
	for i, r := range rows {
		if cells, ok := r.([]any); !ok || len(cells) == 0 || len(cells) > 20 {
			k.bad(fmt.Sprintf("%s/rows/%d", path, i), "must contain 1 to 20 items")
		}
	}
}

func (k *blockCheck) container(path string, b object) {
	list := objects(b["child_blocks"])
	if len(list) == 0 || len(list) > 10 {
		k.bad(path+"/child_blocks", "must contain 1 to 10 items")
	}
	if b["title"] == nil && b["rich_text_title"] == nil {
		k.bad(path, "missing required field: title")
	}
	k.text(path+"/title", b["title"], 150, "plain_text")
	k.blocks(path+"/child_blocks", list)
}

func (k *blockCheck) alert(path string, b object) {
	if k.where == inMessage {
		k.bad(path+"/type", "unsupported type: alert")
	}
	k.required(path, b, "text")
}

func (k *blockCheck) card(path string, b object) {
	for name, most := range map[string]int{"title": 150, "subtitle": 150, "body": 200} {
		k.text(path+"/"+name, b[name], most, "")
	}
	for i, e := range objects(b["actions"]) {
		k.element(fmt.Sprintf("%s/actions/%d", path, i), e)
	}
}

func (k *blockCheck) carousel(path string, b object) {
	for i, e := range k.elements(path, b, 10) {
		k.card(fmt.Sprintf("%s/elements/%d", path, i), e)
	}
}

func (k *blockCheck) required(path string, b object, names ...string) {
	for _, name := range names {
		if b[name] == nil || b[name] == "" {
			k.bad(path, "missing required field: %s", name)
		}
	}
}

// text checks a text object, if there is one. Only kind may be its type if
// kind is given.
func (k *blockCheck) text(path string, v any, most int, kind string) {
	if v == nil {
		return
	}
	t, ok := v.(object)
	if !ok {
		k.bad(path, "must be an object")
		return
	}
	got := str(t, "type")
	if got != "plain_text" && got != "mrkdwn" || kind != "" && got != kind {
		k.bad(path+"/type", "unsupported type: %s", got)
	}
	switch n := utf8.RuneCountInString(str(t, "text")); {
	case n == 0:
		k.bad(path+"/text", "must be more than 0 characters")
	case n > most:
		k.bad(path+"/text", "must be less than %d characters", most+1)
	}
}

// textLength sums the text in blocks, wherever it is.
func textLength(v any) int {
	n := 0
	switch v := v.(type) {
	case []object:
		for _, o := range v {
			n += textLength(o)
		}
	case []any:
		for _, o := range v {
			n += textLength(o)
		}
	case object:
		for key, o := range v {
			if t, ok := o.(string); ok && (key == "text" || key == "title") {
				n += utf8.RuneCountInString(t)
			} else {
				n += textLength(o)
			}
		}
	}
	return n
}

func str(o object, key string) string {
	t, _ := o[key].(string)
	return t
}

// objects reads an array of objects; what is none is left out.
func objects(v any) []object {
	var list []object
	items, _ := v.([]any)
	for _, item := range items {
		if o, ok := item.(object); ok {
			list = append(list, o)
		}
	}
	return list
}
