package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"openinspect/sandbox"
)

// Recipe is how an image is made: what it begins with, and the commands of a
// Dockerfile that follow.
type Recipe struct {
	From     string
	Commands []string
}

// Dockerfile is the recipe as a file.
func (r Recipe) Dockerfile() string {
	return "# The base image of sandboxes. Made from sandbox/image/base.go by make dockerfile.\nFROM " +
		r.From + "\n" + strings.Join(r.Commands, "\n") + "\n"
}

// Version names the recipe: another one has another name.
func (r Recipe) Version() string {
	sum := sha256.Sum256([]byte(r.Dockerfile()))
	return hex.EncodeToString(sum[:6])
}

// baseFrom is Debian 13 with Node.js 22, as the Node.js project publishes it.
const baseFrom = "node:22.21.1-trixie-slim"

// Versions of what is pinned. Debian's own packages are those of its stable
// release. Python is the one of its series that uv knows, with its checksum; Go's
// toolchain is checked by the go command against the checksum database.
const (
	uvVersion         = "0.9.7"
	pythonSeries      = "3.12"
	goVersion         = "1.26.8"
	playwrightVersion = "1.65.1"
)

// Tool is a program that agents find in the base image.
type Tool struct {
	Name    string
	Program string
	Version []string // arguments by which it says which one it is
	Want    string   // what that answer holds
	Without string   // what goes wrong where it is missing, a sentence

	packages []string // of Debian
	commands []string // of the Dockerfile, after all packages
}

// Tools are the programs of the base image. What supervisor and hooks need of
// Debian itself (a shell, coreutils, perl's and util-linux's essentials) is in
// every Debian.
func Tools() []Tool {
	return []Tool{
		{Name: "certificates", Program: "update-ca-certificates", packages: []string{"ca-certificates"},
			Without: "Programs in sandboxes cannot check whom they speak to: install ca-certificates."},
		{Name: "curl", Program: "curl", packages: []string{"curl"}, Without: "Setup scripts that fetch something with curl fail: install curl."},
		{Name: "git", Program: "git", packages: []string{"git", "openssh-client"}, Without: "No repository can be cloned: install git."},
		{Name: "GitHub's gh", Program: "gh", packages: []string{"gh"},
			Without: "Scripts of repositories that call gh fail: install gh. (It has no token in a sandbox.)"},
		{Name: "ripgrep", Program: "rg", packages: []string{"ripgrep"}, Without: "The agent finds nothing in a repository: install ripgrep."},
		{Name: "jq", Program: "jq", packages: []string{"jq"}, Without: "Scripts that read JSON with jq fail: install jq."},
		{Name: "procps", Program: "ps", packages: []string{"procps"}, Without: "The agent cannot look at processes (ps, pgrep): install procps."},
		{Name: "perl", Program: "perl", packages: []string{"perl"}, Without: "Scripts in Perl, git's own among them, fail: install perl."},
		{Name: "a compiler", Program: "gcc", packages: []string{"build-essential", "pkg-config"},
			Without: "Packages with parts in C cannot be installed: install build-essential."},
		{Name: "archives", Program: "unzip", packages: []string{"unzip", "xz-utils", "zip"}, Without: "Archives cannot be unpacked: install unzip, zip and xz-utils."},
		{Name: "Node.js 22", Program: "node", Version: []string{"--version"}, Want: "v22.",
			Without: "Repositories that need Node.js 22 cannot be built: install Node.js 22."},
		pythonTool(),
		{Name: "uv", Program: "uv", packages: []string{"python3-pip"},
			Without: "Repositories whose Python is set up with uv cannot be built: install uv."},
		goTool(),
		playwrightTool(),
	}
}

func pythonTool() Tool {
	return Tool{Name: "Python " + pythonSeries, Program: "python" + pythonSeries,
		commands: []string{
			"ENV UV_PYTHON_INSTALL_DIR=/opt/python UV_PYTHON_BIN_DIR=/usr/local/bin",
			"RUN pip install --break-system-packages --no-cache-dir uv==" + uvVersion +
				" && uv python install " + pythonSeries + " && ln -s python" + pythonSeries + " /usr/local/bin/python3",
		},
		Without: "Repositories that need Python " + pythonSeries + " cannot be built: install it, by uv for instance."}
}

// goTool is Debian's Go, which fetches the one that is wanted as a module.
func goTool() Tool {
	const toolchain = "/opt/go/golang.org/toolchain@v0.0.1-go" + goVersion + ".linux-amd64/bin/"
	return Tool{Name: "Go", Program: "go", packages: []string{"golang-go"},
		commands: []string{
			"RUN GOTOOLCHAIN=go" + goVersion + " GOMODCACHE=/opt/go GOFLAGS=-modcacherw go version && chmod -R a+rX /opt/go" +
				" && rm -rf /opt/go/cache && ln -s " + toolchain + "go " + toolchain + "gofmt /usr/local/bin/",
		},
		Without: "Repositories in Go cannot be built: install Go below /usr."}
}

func playwrightTool() Tool {
	return Tool{Name: "Playwright with Chromium", Program: "playwright",
		commands: []string{
			"ENV PLAYWRIGHT_BROWSERS_PATH=" + sandbox.Browsers,
			"RUN npm install --global --no-fund --no-audit playwright@" + playwrightVersion +
				" && playwright install --with-deps chromium && rm -rf /var/lib/apt/lists/* && npm cache clean --force",
		},
		Without: "The agent cannot look at pages in a browser: npm install --global playwright, and playwright install chromium."}
}

// Base is the base image of sandboxes. The supervisor is not in it: a box fetches
// the one that fits its control plane.
func Base() Recipe {
	var packages, commands, programs []string
	for _, tool := range Tools() {
		programs = append(programs, tool.Program)
		packages = append(packages, tool.packages...)
		commands = append(commands, tool.commands...)
	}
	slices.Sort(packages)
	build := openCodeBuilds["amd64"]
	steps := []string{
		"RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends " +
			strings.Join(slices.Compact(packages), " ") + " && rm -rf /var/lib/apt/lists/*",
	}
	steps = append(steps, commands...)
	opencode := sandbox.Tools + "/opencode"
	return Recipe{From: baseFrom, Commands: append(steps,
		fmt.Sprintf("RUN mkdir -p %s %s %s && cd /tmp && tar -xzf \"$(npm pack --silent %s@%s)\" package/bin/opencode"+
			" && echo \"%s  package/bin/opencode\" | sha256sum --check --strict && mv package/bin/opencode %s && chmod 755 %s && rm -rf /tmp/* && npm cache clean --force",
			sandbox.Home, sandbox.Workspace, sandbox.Tools, build.pkg, OpenCodeVersion, build.sha256, opencode, opencode),
		"RUN for program in "+strings.Join(programs, " ")+"; do command -v $program || { echo $program is missing; exit 1; }; done",
		"ENV LANG=C.UTF-8",
		"WORKDIR "+sandbox.Workspace,
	)}
}

// localPath is where a box on this machine looks for programs.
var localPath = []string{"/usr/local/go/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// Missing says what a box on this machine, which sees the machine's /usr, lacks of
// the base image: for each tool a sentence.
func Missing() []string {
	var sentences []string
	for _, tool := range Tools() {
		if !tool.installed(localPath) {
			sentences = append(sentences, tool.Name+" is missing. "+tool.Without)
		}
	}
	return sentences
}

func (t Tool) installed(path []string) bool {
	for _, dir := range path {
		program := filepath.Join(dir, t.Program)
		if info, err := os.Stat(program); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			continue
		}
		if t.Version == nil {
			return true
		}
		out, err := exec.Command(program, t.Version...).Output()
		return err == nil && strings.Contains(string(out), t.Want)
	}
	return false
}
