package supervisor

type setTitleArgs struct {
	Title string `json:"title" jsonschema:"what the session is about, in at most 80 characters, without a full stop"`
}

const setTitleHelp = "Give this session a better title, once you know what it is about. It is shown in lists and on the page; its first title is the first request's first line."
