package local

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"openinspect/sandbox"
)

// etcFiles are shown to boxes as they are: public facts of the system. Not
// /etc/ssl as a whole, which holds private keys.
var etcFiles = []string{
	"/etc/alternatives", "/etc/bash.bashrc", "/etc/ca-certificates", "/etc/debian_version", "/etc/fonts",
	"/etc/inputrc", "/etc/java-11-openjdk", "/etc/java-17-openjdk", "/etc/java-21-openjdk",
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/magic", "/etc/mime.types",
	"/etc/os-release", "/etc/perl", "/etc/pki/tls/certs", "/etc/protocols", "/etc/python3", "/etc/services",
	"/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/timezone",
}

// etcConfigurations of tools are shown only if they hold nothing secret: they
// may say which mirror or certificate to use, and also with what password.
var etcConfigurations = []string{"/etc/gitconfig", "/etc/npmrc", "/etc/pip.conf"}

// usrConfigurations are the same elsewhere: /usr is shown as a whole, so these
// are covered by an empty file if they hold something secret.
var usrConfigurations = []string{
	"/usr/etc/npmrc", "/usr/local/etc/npmrc", "/usr/etc/gitconfig", "/usr/local/etc/gitconfig", "/usr/local/etc/pip.conf",
}

// secretive matches what a configuration with a credential has: a name for one
// or an address with a user in it.
var secretive = regexp.MustCompile(`(?i)_auth|auth.?token|passw|secret|credential|extraheader|authorization|api.?key|://[^/\s]*@`)

func harmless(path string) bool {
	text, err := os.ReadFile(path)
	return err == nil && !secretive.Match(text)
}

// madeEtc are files of /etc that boxes see instead of the machine's own.
var madeEtc = map[string]string{
	"passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n" +
		fmt.Sprintf("%s:x:%d:%d::%s:/bin/bash\n", insideName, insideUID, insideUID, sandbox.Home) +
		"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
	"group":         fmt.Sprintf("root:x:0:\n%s:x:%d:\nnogroup:x:65534:\n", insideName, insideUID),
	"hosts":         "127.0.0.1 localhost box\n::1 localhost\n",
	"hostname":      "box\n",
	"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"resolv.conf":   "# a sandbox has no network of its own\n",
}

// writeEtc puts madeEtc on disk and returns the binds that show it.
func (p *Provider) writeEtc() ([]bind, error) {
	dir := filepath.Join(p.dir, "etc")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making files for sandboxes: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644); err != nil {
		return nil, fmt.Errorf("making files for sandboxes: %w", err)
	}
	var binds []bind
	for name, text := range madeEtc {
		path := filepath.Join(dir, name)
		if old, err := os.ReadFile(path); err != nil || string(old) != text {
			if err := replaceFile(path, []byte(text), 0o644); err != nil {
				return nil, err
			}
		}
		binds = append(binds, bind{Host: path, Inside: "/etc/" + name})
	}
	return binds, nil
}
