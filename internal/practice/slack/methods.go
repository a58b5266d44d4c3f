package slack

// DefaultScopes are the bot scopes of a coding agent's manifest.
func DefaultScopes() []string {
	return []string{
		"app_mentions:read", "assistant:write", "channels:history", "channels:read", "chat:write", "commands",
		"files:read", "files:write", "groups:history", "groups:read", "im:history", "im:read", "im:write",
		"links:read", "links:write", "mpim:history", "mpim:read", "reactions:read", "reactions:write", "team:read",
		"users:read", "users:read.email",
	}
}

const (
	readHistory  = "channels:history,groups:history,im:history,mpim:history"
	readChannels = "channels:read,groups:read,im:read,mpim:read"
)

// methods is the Web API: tiers, scopes and required arguments as Slack's
// reference of 2026 gives them.
var methods = map[string]method{
	"api.test":              {run: (*Server).testAPI, rate: tier4, tokens: noToken},
	"auth.test":             {run: (*Server).authTest, rate: special},
	"apps.connections.open": {run: (*Server).appsConnectionsOpen, rate: tier3, tokens: appToken},

	"chat.postMessage":   {run: (*Server).chatPostMessage, rate: posting, scope: "chat:write", needs: []string{"channel"}},
	"chat.postEphemeral": {run: (*Server).chatPostEphemeral, rate: tier4, scope: "chat:write", needs: []string{"channel", "user"}},
	"chat.update":        {run: (*Server).chatUpdate, rate: tier3, scope: "chat:write", needs: []string{"channel", "ts"}},
	"chat.delete":        {run: (*Server).chatDelete, rate: tier3, scope: "chat:write", needs: []string{"channel", "ts"}},
	"chat.getPermalink":  {run: (*Server).chatGetPermalink, rate: special, needs: []string{"channel", "message_ts"}},
	"chat.startStream":   {run: (*Server).chatStartStream, rate: tier2, scope: "chat:write", needs: []string{"channel", "thread_ts"}, tokens: botToken},
	"chat.appendStream":  {run: (*Server).chatAppendStream, rate: tier4, scope: "chat:write", needs: []string{"channel", "ts"}, tokens: botToken},
	"chat.stopStream":    {run: (*Server).chatStopStream, rate: tier2, scope: "chat:write", needs: []string{"channel", "ts"}, tokens: botToken},

	"conversations.create":  {run: (*Server).conversationsCreate, rate: tier2, scope: "channels:manage", needs: []string{"name"}},
	"conversations.history": {run: (*Server).conversationsHistory, rate: tier3, scope: readHistory, needs: []string{"channel"}},
	"conversations.info":    {run: (*Server).conversationsInfo, rate: tier3, scope: readChannels, needs: []string{"channel"}},
	"conversations.invite":  {run: (*Server).conversationsInvite, rate: tier3, scope: "channels:manage", needs: []string{"channel", "users"}},
	"conversations.join":    {run: (*Server).conversationsJoin, rate: tier3, scope: "channels:join", needs: []string{"channel"}},
	"conversations.list":    {run: (*Server).conversationsList, rate: tier2, scope: readChannels},
	"conversations.members": {run: (*Server).conversationsMembers, rate: tier4, scope: readChannels, needs: []string{"channel"}},
	"conversations.open":    {run: (*Server).conversationsOpen, rate: tier3, scope: "im:write"},
	"conversations.replies": {run: (*Server).conversationsReplies, rate: tier3, scope: readHistory, needs: []string{"channel", "ts"}},

	"users.info":          {run: (*Server).usersInfo, rate: tier4, scope: "users:read", needs: []string{"user"}},
	"users.list":          {run: (*Server).usersList, rate: tier2, scope: "users:read"},
	"users.lookupByEmail": {run: (*Server).usersLookupByEmail, rate: tier3, scope: "users:read.email", needs: []string{"email"}},
	"users.profile.get":   {run: (*Server).usersProfileGet, rate: tier4, scope: "users.profile:read"},
	"bots.info":           {run: (*Server).botsInfo, rate: tier3, scope: "users:read"},
	"team.info":           {run: (*Server).teamInfo, rate: tier3, scope: "team:read"},

	"reactions.add":    {run: (*Server).reactionsAdd, rate: tier3, scope: "reactions:write", needs: []string{"channel", "name", "timestamp"}},
	"reactions.remove": {run: (*Server).reactionsRemove, rate: tier2, scope: "reactions:write", needs: []string{"channel", "name", "timestamp"}},
	"reactions.get":    {run: (*Server).reactionsGet, rate: tier3, scope: "reactions:read", needs: []string{"channel", "timestamp"}},

	"files.getUploadURLExternal":   {run: (*Server).filesGetUploadURL, rate: tier4, scope: "files:write", needs: []string{"filename", "length"}},
	"files.completeUploadExternal": {run: (*Server).filesComplete, rate: tier4, scope: "files:write", needs: []string{"files"}},
	"files.info":                   {run: (*Server).filesInfo, rate: tier4, scope: "files:read", needs: []string{"file"}},

	"views.open":    {run: (*Server).viewsOpen, rate: tier4, needs: []string{"view"}, tokens: botToken},
	"views.push":    {run: (*Server).viewsPush, rate: tier4, needs: []string{"view"}, tokens: botToken},
	"views.update":  {run: (*Server).viewsUpdate, rate: tier4, needs: []string{"view"}, tokens: botToken},
	"views.publish": {run: (*Server).viewsPublish, rate: tier4, needs: []string{"user_id", "view"}, tokens: botToken},

	"agents.sessions.setStatus":             {run: (*Server).agentsSetStatus, rate: tier3, scope: "chat:write", needs: []string{"status", "channel_id", "thread_ts"}, tokens: botToken},
	"agents.sessions.rename":                {run: (*Server).agentsRename, rate: tier3, scope: "chat:write", needs: []string{"channel_id", "title", "thread_ts"}},
	"assistant.threads.setStatus":           {run: (*Server).assistantSetStatus, rate: special, scope: "chat:write,assistant:write", needs: []string{"channel_id", "thread_ts"}, tokens: botToken},
	"assistant.threads.setTitle":            {run: (*Server).assistantSetTitle, rate: tier4, scope: "assistant:write", needs: []string{"channel_id", "thread_ts", "title"}, tokens: botToken},
	"assistant.threads.setSuggestedPrompts": {run: (*Server).assistantSetPrompts, rate: tier4, scope: "assistant:write", needs: []string{"channel_id", "prompts"}, tokens: botToken},

	"openid.connect.token":    {run: (*Server).openIDToken, rate: tier4, tokens: noToken},
	"openid.connect.userInfo": {run: (*Server).openIDUserInfo, rate: tier3},
}
