// An ordinary Bolt app: a mention is answered in its thread with a button, the
// button opens a modal, and the modal changes the answer. Nothing in it knows
// of a stand-in but the address of the API.
const { App, LogLevel } = require("@slack/bolt");

const app = new App({
  token: process.env.SLACK_BOT_TOKEN,
  appToken: process.env.SLACK_APP_TOKEN,
  socketMode: true,
  logLevel: LogLevel.WARN,
  clientOptions: { slackApiUrl: process.env.SLACK_API_URL },
});

const plain = (text) => ({ type: "plain_text", text });

app.event("app_mention", async ({ event, say }) => {
  await say({
    thread_ts: event.thread_ts || event.ts,
    text: `Hello <@${event.user}>`,
    blocks: [
      { type: "section", text: { type: "mrkdwn", text: `Hello <@${event.user}>` } },
      { type: "actions", elements: [{ type: "button", action_id: "rename", text: plain("Rename"), value: "greeting" }] },
    ],
  });
});

app.action("rename", async ({ ack, body, client }) => {
  await ack();
  await client.views.open({
    trigger_id: body.trigger_id,
    view: {
      type: "modal",
      callback_id: "new_name",
      private_metadata: JSON.stringify({ channel: body.channel.id, ts: body.message.ts }),
      title: plain("Rename"),
      submit: plain("Save"),
      blocks: [{ type: "input", block_id: "name", label: plain("New name"), element: { type: "plain_text_input", action_id: "text" } }],
    },
  });
});

app.view("new_name", async ({ ack, view, client }) => {
  const name = view.state.values.name.text.value;
  if (name.length < 3) {
    await ack({ response_action: "errors", errors: { name: "At least three letters, please." } });
    return;
  }
  await ack();
  const { channel, ts } = JSON.parse(view.private_metadata);
  await client.chat.update({ channel, ts, text: `Renamed to ${name}`, blocks: [] });
});

(async () => {
  await app.start();
  console.log("running");
})();

process.on("SIGTERM", async () => {
  await app.stop();
  process.exit(0);
});
