package sandbox

import "time"

// Preparation is what `supervise --prepare` is asked for, as JSON on its standard
// input: to make of a box's filesystem what an image of the repository shall be.
// What happens is told on its standard error; its last line on standard output
// is a Prepared.
type Preparation struct {
	Repository   string        `json:"repository"` // owner/name
	RemoteURL    string        `json:"remote_url"` // what origin shall say
	Branch       string        `json:"branch"`     // the default branch
	BotName      string        `json:"bot_name"`
	BotEmail     string        `json:"bot_email"`
	SetupTimeout time.Duration `json:"setup_timeout"` // for each script
}

// Prepared is how a preparation ended.
type Prepared struct {
	Commit  string `json:"commit"`            // what is checked out
	Warning string `json:"warning,omitempty"` // a sentence about what failed and is not needed
	Error   string `json:"error,omitempty"`   // why there is no image to be had
}
