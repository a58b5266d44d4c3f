package main

import (
	"fmt"
	"reflect"
	"strings"
)

// setting is one row of README's configuration table.
type setting struct {
	Name, Default, Text string
	Required, Secret    bool
}

// settings lists the configuration as the fields of Config declare it.
func settings() []setting {
	var out []setting
	for f := range fieldsOf[Config]() {
		name, options, _ := strings.Cut(f.Tag.Get("env"), ",")
		text := f.Tag.Get("desc")
		plain := strings.TrimSpace(strings.TrimPrefix(text, secretMark))
		out = append(out, setting{
			Name: name, Default: f.Tag.Get("envDefault"), Text: plain,
			Required: strings.Contains(options, "required"), Secret: plain != text,
		})
	}
	return out
}

func fieldsOf[T any]() func(yield func(reflect.StructField) bool) {
	t := reflect.TypeFor[T]()
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

func secretNames() map[string]bool {
	names := map[string]bool{}
	for _, s := range settings() {
		names[s.Name] = s.Secret
	}
	return names
}

// describe is what a variable is for.
func describe(name string) string {
	for _, s := range settings() {
		if s.Name == name {
			return s.Text
		}
	}
	return ""
}

// configTable is the Markdown table of the README.
func configTable() string {
	var b strings.Builder
	b.WriteString("| Variable | Default | What it is |\n| --- | --- | --- |\n")
	for _, s := range settings() {
		def := "`" + s.Default + "`"
		switch {
		case s.Required:
			def = "required"
		case s.Default == "":
			def = ""
		}
		text := s.Text
		if s.Secret {
			text += " — secret, or `" + s.Name + "_FILE`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.Name, def, strings.ReplaceAll(text, "|", "\\|"))
	}
	return b.String()
}
