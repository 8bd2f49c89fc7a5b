"use strict";

// The operations of /openapi.json as a page; everything becomes nodes, never markup.

const TOKEN = "tastemaker-token";
const byId = (id) => document.getElementById(id);

function node(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// A schema with what it refers to in place; what refers to itself is named only.
function resolved(schema, all, seen = []) {
  if (Array.isArray(schema)) return schema.map((one) => resolved(one, all, seen));
  if (!schema || typeof schema !== "object") return schema;
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return seen.includes(name) ? name : resolved(all[name], all, [...seen, name]);
  }
  const kept = Object.entries(schema).filter(([key, value]) => key !== "title" || typeof value !== "string");
  return Object.fromEntries(kept.map(([key, value]) => [key, resolved(value, all, seen)]));
}

function block(title, value) {
  return [node("h3", "", title), node("pre", "", JSON.stringify(value, null, 2))];
}

function operationNode(method, path, operation, all) {
  const inside = node("div", "inside");
  if (operation.parameters) inside.append(...block("Parameters", resolved(operation.parameters, all)));
  const body = operation.requestBody;
  if (body) inside.append(...block("Body", resolved(body.content["application/json"].schema, all)));
  const good = Object.entries(operation.responses).find(([status]) => status.startsWith("2"));
  const told = good && good[1].content && good[1].content["application/json"];
  if (told) inside.append(...block(`Answer ${good[0]}`, resolved(told.schema, all)));
  const heading = node("code", "", node("b", "method", method.toUpperCase()), ` ${path}`);
  const summary = node("summary", "", heading, node("span", "", operation.description || operation.summary));
  return node("details", "operation", summary, inside);
}

function show(api) {
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const name = (operation.tags || ["Other"])[0];
      if (!groups.has(name)) groups.set(name, node("section", "group", node("h2", "", name)));
      groups.get(name).append(operationNode(method, path, operation, api.components.schemas));
    }
  }
  byId("words").textContent = `${api.info.title} ${api.info.version}. ${api.info.summary}`;
  byId("operations").replaceChildren(...groups.values());
}

async function load() {
  const token = sessionStorage.getItem(TOKEN) || "";
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch("/openapi.json", { headers });
  byId("keyhole").hidden = response.status !== 401;
  if (response.status === 401) byId("words").textContent = "This server needs a token.";
  else if (response.ok) show(await response.json());
  else byId("words").textContent = `The server answered ${response.status}.`;
}

byId("keyhole").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  load();
});
load();
