package image

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the Dockerfile")

func TestTheDockerfileIsTheRecipe(t *testing.T) {
	t.Parallel()
	want := Base().Dockerfile()
	if *update {
		if err := os.WriteFile("Dockerfile", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("Dockerfile")
	if err != nil || string(got) != want {
		t.Errorf("sandbox/image/Dockerfile is not what base.go says (%v): run make dockerfile", err)
	}
}

func TestTheRecipeNamesNoHostAndPinsWhatItFetches(t *testing.T) {
	t.Parallel()
	text := Base().Dockerfile()
	if found := regexp.MustCompile(`https?://\S+`).FindString(text); found != "" {
		t.Errorf("the recipe names %s: its tools know where to fetch from", found)
	}
	for _, want := range []string{"opencode-linux-x64@" + OpenCodeVersion, openCodeBuilds["amd64"].sha256, "uv==", "playwright@", "GOTOOLCHAIN=go1."} {
		if !strings.Contains(text, want) {
			t.Errorf("the recipe lacks %s", want)
		}
	}
	_, looked, _ := strings.Cut(text, "RUN for program in ")
	for _, tool := range Tools() {
		if !strings.Contains(looked, tool.Program) {
			t.Errorf("a build that leaves %s out succeeds", tool.Program)
		}
	}
	for line := range strings.Lines(text) {
		if word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word != "#" && word != "FROM" && word != "RUN" && word != "ENV" && word != "WORKDIR" {
			t.Errorf("%q is no command that every builder of images knows", line)
		}
	}
}

func TestAToolIsFoundWhereABoxLooksAndInTheVersionThatIsWanted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	program("new", "#!/bin/sh\necho v22.1.0\n", 0o755)
	program("old", "#!/bin/sh\necho v18.1.0\n", 0o755)
	program("text", "", 0o644)
	for name, want := range map[string]bool{"new": true, "old": false, "text": false, "absent": false} {
		tool := Tool{Program: name, Version: []string{"--version"}, Want: "v22."}
		if got := tool.installed([]string{"/nowhere", dir}); got != want {
			t.Errorf("%s is installed: %v", name, got)
		}
	}
	for _, tool := range Tools() {
		if tool.Program == "" || !strings.HasSuffix(tool.Without, ".") && !strings.HasSuffix(tool.Without, ")") {
			t.Errorf("of %s it is said: %q", tool.Name, tool.Without)
		}
	}
}
