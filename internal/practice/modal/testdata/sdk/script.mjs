// Drives a Modal with Modal's own library and prints what came of it as JSON.
import { AlreadyExistsError, ModalClient, NotFoundError } from "modal";

const modal = new ModalClient();
const got = {};
const nameOf = async (promise) => promise.then(() => "no error", (e) => e.constructor.name);

const app = await modal.apps.fromName("from-js", { createIfMissing: true });
const image = modal.images.fromRegistry("debian:12")
  .dockerfileCommands(["ENV COLOUR=green", "RUN apt-get install -y git"]);
const sandbox = await modal.sandboxes.create(app, image, {
  name: "first", tags: { session: "s1" }, timeoutMs: 600_000, env: { GREETING: "hello" },
  cpu: 1.5, memoryMiB: 1024, outboundDomainAllowlist: ["example.com"],
  command: ["sh", "-c", "read line; echo entry $line; exec sleep 600"],
});

const run = await sandbox.exec(["sh", "-c", "echo $GREETING $COLOUR; echo oops >&2; exit 3"]);
got.exec = [await run.stdout.readText(), await run.stderr.readText(), await run.wait()];

const cat = await sandbox.exec(["cat"]);
await cat.stdin.writeText("typed ");
await cat.stdin.writeText("in");
await cat.stdin.close();
got.stdin = [await cat.stdout.readText(), await cat.wait()];

await sandbox.stdin.writeText("input\n");
const reader = sandbox.stdout.getReader();
let entry = "";
while (!entry.endsWith("\n")) entry += (await reader.read()).value;
await reader.cancel();
got.entrypoint = entry;

const slow = await sandbox.exec(["sleep", "60"], { timeoutMs: 1000 });
got.timeout = await nameOf(slow.wait().then((code) => { got.timeoutCode = code; }));

const files = sandbox.filesystem;
await files.writeText("kept", "/workspace/dir/file.txt");
await files.makeDirectory("/workspace/dir/sub");
got.files = {
  text: await files.readText("/workspace/dir/file.txt"),
  list: (await files.listFiles("/workspace/dir")).map((f) => [f.name, f.type]),
  size: (await files.stat("/workspace/dir/file.txt")).size,
  missing: await nameOf(files.readText("/workspace/none")),
  notEmpty: await nameOf(files.remove("/workspace/dir")),
};
await files.remove("/workspace/dir/sub");

got.taken = await nameOf(modal.sandboxes.create(app, image, { name: "first" })) === AlreadyExistsError.name;

const saved = await sandbox.snapshotFilesystem({ ttlMs: 3_600_000 });
const second = await modal.sandboxes.create(app, saved, { name: "second", tags: { session: "s2" } });
got.restored = await second.filesystem.readText("/workspace/dir/file.txt");

const ids = async (tags) => {
  const list = [];
  for await (const s of modal.sandboxes.list({ appId: app.appId, tags })) list.push(s.sandboxId);
  return list;
};
got.listed = (await ids()).length;
got.byTag = (await ids({ session: "s2" }))[0] === second.sandboxId;
got.byName = (await modal.sandboxes.fromName("from-js", "first")).sandboxId === sandbox.sandboxId;
got.tags = await second.getTags();

got.terminated = await sandbox.terminate({ wait: true });
got.polled = [await sandbox.poll(), await second.poll()];
got.left = (await ids()).length;
got.gone = await nameOf(modal.sandboxes.fromName("from-js", "first")) === NotFoundError.name;

await second.terminate();
await modal.images.delete(saved.imageId);
got.deleted = await nameOf(modal.images.fromId(saved.imageId));

console.log(JSON.stringify(got));
process.exit(0); // idle connections would keep the process
