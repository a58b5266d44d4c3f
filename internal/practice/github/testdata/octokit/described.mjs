// Octokit that compares each answer with GitHub's own description of its API
// (@octokit/openapi): the status has to be one of those described for the route,
// the body as its schema says.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { Octokit } from "@octokit/rest";
import Ajv from "ajv";
import addFormats from "ajv-formats";

const file = createRequire(import.meta.url).resolve("@octokit/openapi/generated/api.github.com.json");
const description = JSON.parse(readFileSync(file), asJSONSchema);
const ajv = addFormats(new Ajv({ strict: false, allErrors: true, verbose: true })).addSchema(description, "github");

// asJSONSchema says OpenAPI's "nullable" in the words of JSON Schema.
function asJSONSchema(_, value) {
  if (value?.nullable !== true) return value;
  const { nullable, ...rest } = value;
  return { anyOf: [{ type: "null" }, rest] };
}

// Routes with the fewest parameters come first, of those the longest:
// /pulls/comments/{id} before /pulls/{number}/…, /commits/{ref}/status before /commits/{ref}.
const routes = Object.keys(description.paths)
  .map((path) => ({ path, matches: new RegExp(`^${path.replace(/\{ref\}/g, ".+").replace(/\{\w+\}/g, "[^/]+")}$`) }))
  .sort((a, b) => a.path.split("{").length - b.path.split("{").length || b.path.length - a.path.length);

// These can happen anywhere and are described for few routes.
const anywhere = [401, 403, 404, 422];

// GitHub answers null here for outdated comments, which its description does not say
// (github.com/github/rest-api-description/issues/5568).
const undescribed = /^\/\d+\/(line|position)$/;

export const driven = new Set(); // routes that answered as wanted
export const differences = new Set();

const pointer = (...parts) => "github#/" + parts.map((p) => encodeURIComponent(p.replaceAll("~", "~0").replaceAll("/", "~1"))).join("/");

// schema finds where the description says how the answer looks: null if it has no JSON.
function schema(path, method, status) {
  const described = description.paths[path][method].responses[status];
  if (!described) {
    return anywhere.includes(status) ? pointer("components", "schemas", status === 422 ? "validation-error" : "basic-error") : undefined;
  }
  if (described.$ref) {
    const name = described.$ref.split("/").pop();
    return pointer("components", "responses", name, "content", "application/json", "schema");
  }
  return described.content?.["application/json"] ? pointer("paths", path, method, "responses", `${status}`, "content", "application/json", "schema") : null;
}

// compare notes how an answer differs; format is one asked for instead of JSON.
function compare(response, request, format) {
  const path = decodeURIComponent(new URL(request.url, response.url).pathname.replace(new URL(process.env.GITHUB_API).pathname, ""));
  const route = routes.find((r) => r.matches.test(path) && description.paths[r.path][request.method.toLowerCase()]);
  if (!route) {
    differences.add(`${request.method} ${path}: GitHub has no such route`);
    return;
  }
  const name = `${request.method} ${route.path}`;
  if (response.status < 400) driven.add(name);
  const followed = !response.url.startsWith(process.env.GITHUB_API); // the answer is another server's
  const status = followed ? 302 : response.status;
  const is = schema(route.path, request.method.toLowerCase(), status);
  if (is === undefined) differences.add(`${name}: status ${status} is not described`);
  if (!is || format) return;
  const validate = ajv.getSchema(is) ?? ajv.compile({ $ref: is });
  if (validate(response.data)) return;
  const news = validate.errors.filter((e) => !undescribed.test(e.instancePath) || e.data !== null);
  for (const e of news) differences.add(`${name} ${response.status}: ${e.instancePath.replace(/\/\d+/g, "/N")} ${e.message}`);
}

// client is Octokit with a token.
export function client(token) {
  const quiet = () => {};
  const octokit = new Octokit({ baseUrl: process.env.GITHUB_API, auth: token, log: { debug: quiet, info: quiet, warn: quiet, error: quiet } });
  octokit.hook.wrap("request", async (send, options) => {
    const request = octokit.request.endpoint.parse(options);
    try {
      const response = await send(options);
      compare(response, request, options.mediaType?.format);
      return response;
    } catch (error) {
      if (error.response) compare(error.response, request, "");
      throw error;
    }
  });
  return octokit;
}

// refused is how GitHub refused what must not succeed.
export async function refused(wanted) {
  try {
    await wanted;
  } catch (error) {
    if (!error.response) throw error;
    const { message, errors } = error.response.data;
    return errors ? { status: error.status, message, errors } : { status: error.status, message };
  }
  return "it succeeded";
}
