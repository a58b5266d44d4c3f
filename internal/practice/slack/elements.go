package slack

import (
	"fmt"
	"slices"
)

// elementChecks is every kind of interactive element that is known, with what
// it needs besides an action id.
var elementChecks = map[string]func(*blockCheck, string, object){
	"button":                (*blockCheck).button,
	"icon_button":           (*blockCheck).iconButton,
	"feedback_buttons":      (*blockCheck).feedbackButtons,
	"overflow":              (*blockCheck).overflow,
	"static_select":         (*blockCheck).choices,
	"multi_static_select":   (*blockCheck).choices,
	"checkboxes":            (*blockCheck).choices,
	"radio_buttons":         (*blockCheck).choices,
	"image":                 (*blockCheck).image,
	"external_select":       nil,
	"multi_external_select": nil,
	"users_select":          nil, "multi_users_select": nil,
	"channels_select": nil, "multi_channels_select": nil,
	"conversations_select": nil, "multi_conversations_select": nil,
	"datepicker": nil, "timepicker": nil, "datetimepicker": nil,
	"plain_text_input": nil, "rich_text_input": nil, "email_text_input": nil,
	"url_text_input": nil, "number_input": nil, "file_input": nil,
	"workflow_button": nil,
}

func (k *blockCheck) element(path string, e object) {
	kind := str(e, "type")
	check, known := elementChecks[kind]
	if !known {
		k.bad(path+"/type", "unsupported type: %s", kind)
		return
	}
	if kind != "image" {
		if id := str(e, "action_id"); id == "" {
			e["action_id"] = blockID(path, e)
		} else if len(id) > 255 {
			k.bad(path+"/action_id", "must be less than 256 characters")
		}
	}
	if check != nil {
		check(k, path, e)
	}
	k.confirm(path+"/confirm", e["confirm"])
	k.text(path+"/placeholder", e["placeholder"], 150, "plain_text")
}

func (k *blockCheck) button(path string, e object) {
	k.required(path, e, "text")
	k.text(path+"/text", e["text"], 75, "plain_text")
	if len(str(e, "value")) > 2000 {
		k.bad(path+"/value", "must be less than 2001 characters")
	}
	if len(str(e, "url")) > 3000 {
		k.bad(path+"/url", "must be less than 3001 characters")
	}
	if st := str(e, "style"); st != "" && st != "primary" && st != "danger" {
		k.bad(path+"/style", "must be one of primary, danger")
	}
}

func (k *blockCheck) iconButton(path string, e object) {
	k.required(path, e, "text", "icon")
}

func (k *blockCheck) feedbackButtons(path string, e object) {
	for _, side := range []string{"positive_button", "negative_button"} {
		b, ok := e[side].(object)
		if !ok {
			k.bad(path, "missing required field: %s", side)
			continue
		}
		k.required(path+"/"+side, b, "text", "value")
		k.text(path+"/"+side+"/text", b["text"], 75, "plain_text")
	}
}

func (k *blockCheck) overflow(path string, e object) {
	if n := len(objects(e["options"])); n < 1 || n > 5 {
		k.bad(path+"/options", "must contain 1 to 5 items")
	}
	k.options(path+"/options", objects(e["options"]))
}

func (k *blockCheck) choices(path string, e object) {
	options, groups := objects(e["options"]), objects(e["option_groups"])
	most := 100
	if kind := str(e, "type"); slices.Contains([]string{"checkboxes", "radio_buttons"}, kind) {
		most = 10
	}
	if len(options) == 0 && len(groups) == 0 {
		k.bad(path+"/options", "must contain at least 1 item")
	}
	if len(options) > most || len(groups) > 100 {
		k.bad(path+"/options", "no more than %d items allowed", most)
	}
	k.options(path+"/options", options)
	for i, g := range groups {
		k.text(fmt.Sprintf("%s/option_groups/%d/label", path, i), g["label"], 75, "plain_text")
		k.options(fmt.Sprintf("%s/option_groups/%d/options", path, i), objects(g["options"]))
	}
}

func (k *blockCheck) options(path string, list []object) {
	for i, o := range list {
		at := fmt.Sprintf("%s/%d", path, i)
		k.required(at, o, "text", "value")
		k.text(at+"/text", o["text"], 75, "")
		if len(str(o, "value")) > 150 {
			k.bad(at+"/value", "must be less than 151 characters")
		}
	}
}

func (k *blockCheck) confirm(path string, v any) {
	c, ok := v.(object)
	if !ok {
		return
	}
	k.text(path+"/title", c["title"], 100, "plain_text")
	k.text(path+"/text", c["text"], 300, "")
	k.text(path+"/confirm", c["confirm"], 30, "plain_text")
	k.text(path+"/deny", c["deny"], 30, "plain_text")
}

// findElement returns the interactive element that a choice is about and the id
// of the block it is in. Without a block's id it is the first of that action,
// among buttons the first with the value, if one is given.
func findElement(blocks []object, ch Choice) (element object, block string) {
	for _, b := range blocks {
		if inner, id := findElement(objects(b["child_blocks"]), ch); inner != nil {
			return inner, id
		}
		if ch.BlockID != "" && str(b, "block_id") != ch.BlockID {
			continue
		}
		for _, e := range elementsOf(b) {
			other := str(e, "type") == "button" && ch.Value != "" && str(e, "value") != ch.Value
			if str(e, "action_id") == ch.ActionID && !other {
				return e, str(b, "block_id")
			}
		}
	}
	return nil, ""
}

// elementsOf lists what can be clicked or filled in directly in a block.
func elementsOf(b object) []object {
	list := append(objects(b["elements"]), objects(b["actions"])...)
	for _, key := range []string{"accessory", "element"} {
		if e, ok := b[key].(object); ok {
			list = append(list, e)
		}
	}
	return list
}
