// The page of `task=serve`. Texts go to POST /reward and nowhere else; nothing is stored.
// What users write, and what the server says, enters the page as textContent alone.
import { readRow } from "./rows.js";

const ROLES = ["user", "assistant", "system"];
const find = (id) => document.getElementById(id);
const state = { token: "", scales: [], running: null, retry: null, edits: 0 };

function make(tag, text, className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = className;
  return element;
}

function copyOf(template) {
  return find(template).content.firstElementChild.cloneNode(true);
}

// ---- the server ----

async function ask(path, body, signal) {
  const headers = {};
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  if (body) headers["Content-Type"] = "application/json";
  const call = { headers, signal, cache: "no-store", credentials: "omit" };
  if (body) Object.assign(call, { method: "POST", body: JSON.stringify(body) });
  let answer;
  try {
    answer = await fetch(path, call);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is it still running?");
  }
  const found = await answer.json().catch(() => null);
  if (answer.ok && found !== null) return found;
  const failure = new Error(found?.error?.message ?? `The server answered ${answer.status}.`);
  failure.status = answer.status;
  throw failure;
}

// Do something that asks the server; say what went wrong, and ask for a token that is missing.
async function attempt(action) {
  find("error").hidden = true;
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 401) {
      state.retry = action;
      find("access").hidden = false;
      find("token").focus();
    }
    find("error").textContent = error.message;
    find("error").hidden = false;
    find("error").scrollIntoView({ block: "nearest" });
  }
}

async function describe() {
  const [model] = (await ask("v1/models")).data;
  state.scales = model.scales ?? [];
  find("name").textContent = model.id;
  document.title = `${model.id} · rmexp`;
  const facts = [];
  if (model.base && model.base !== model.id) facts.push(`from ${model.base}`);
  if (model.max_length) facts.push(`up to ${model.max_length.toLocaleString("en")} tokens`);
  if (model.accuracy) facts.push(accuracyText(model.accuracy));
  if (facts.length) find("facts").textContent = facts.join(" · ");
  find("warnings").replaceChildren(...(model.warnings ?? []).map((text) => make("li", text)));
  find("biases").hidden = !model.warnings?.length;
}

function accuracyText({ value, low, high, set }) {
  const interval = low == null ? "" : ` [${low.toFixed(3)}, ${high.toFixed(3)}]`;
  return `accuracy ${value.toFixed(3)}${interval}${set ? ` on ${set}` : ""}`;
}

// ---- the form ----

function number(list, name) {
  [...list.children].forEach((text, n) => {
    const label = `${name} ${n + 1}`;
    if (name === "Answer") text.querySelector("label").textContent = label;
    else text.querySelector("select").setAttribute("aria-label", `Role of turn ${n + 1}`);
    text.querySelector("textarea").setAttribute("aria-label", label);
    const remove = text.querySelector("button");
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove ${label.toLowerCase()}`);
    remove.hidden = list.children.length === 1;
  });
}

function add(list, name, content, role) {
  const text = copyOf(name.toLowerCase());
  text.querySelector("textarea").value = content;
  const select = text.querySelector("select");
  if (select) {
    const roles = ROLES.includes(role) ? ROLES : [...ROLES, role];
    select.append(...roles.map((each) => new Option(each, each, false, each === role)));
  }
  text.querySelector("button").addEventListener("click", () => {
    const next = text.nextElementSibling ?? text.previousElementSibling;
    text.remove();
    number(list, name);
    changed();
    next.querySelector("textarea").focus();
  });
  list.append(text);
  number(list, name);
  return text;
}

const addTurn = (content = "", role = "user") => add(find("turns"), "Turn", content, role);
const addAnswer = (content = "") => add(find("answers"), "Answer", content);

function changed() {
  state.edits += 1;
  const scored = find("rewards").childElementCount > 0;
  find("stale").hidden = !scored;
  find("results").classList.toggle("old", scored);
}

// ---- JSON ----

function fill() {
  let row;
  try {
    row = JSON.parse(find("json").value);
  } catch (error) {
    throw new Error(`This is no JSON: ${error.message}.`);
  }
  const { prompt, responses } = readRow(row);
  find("turns").replaceChildren();
  find("answers").replaceChildren();
  prompt.forEach(({ role, content }) => addTurn(content, role));
  responses.forEach((text) => addAnswer(text));
  find("paste").open = false;
}

// ---- rewards ----

async function score() {
  const prompt = [...find("turns").children].map((turn) => ({
    role: turn.querySelector("select").value,
    content: turn.querySelector("textarea").value,
  }));
  const responses = [...find("answers").querySelectorAll("textarea")].map((area) => area.value);
  state.running?.abort();
  state.running = new AbortController();
  const { signal } = state.running;
  const { edits } = state;
  find("summary").textContent = "Scoring ...";
  try {
    const more = ["normalised", "probability", "rating"];
    const scales = ["raw", ...more.filter((name) => state.scales.includes(name))];
    const asked = scales.map((scale) => ask("reward", { prompt, responses, scale }, signal));
    const found = await Promise.all(asked);
    show(responses, Object.fromEntries(scales.map((scale, n) => [scale, found[n]])));
    if (state.edits !== edits) changed(); // while the server was scoring
  } catch (error) {
    if (error.name !== "AbortError") find("summary").textContent = "Not scored.";
    throw error;
  }
}

// Rewards have no natural zero: bars start at an average answer where the model knows it.
function show(responses, { raw, normalised, probability, rating }) {
  const order = responses.map((_, n) => n).sort((a, b) => raw.rewards[b] - raw.rewards[a]);
  const lengths = (normalised ?? raw).rewards;
  const side = Math.max(...lengths.map(Math.abs), normalised ? 2 : 1e-9);
  find("rewards").replaceChildren(...order.map((n) => {
    const item = copyOf("reward");
    item.querySelector(".who").textContent = `Answer ${n + 1}`;
    item.querySelector(".begin").textContent = responses[n].slice(0, 200);
    item.querySelector(".value").textContent = raw.rewards[n].toFixed(3);
    const bar = item.querySelector("i").style;
    bar.left = `${50 + (50 * Math.min(0, lengths[n])) / side}%`;
    bar.width = `${(50 * Math.abs(lengths[n])) / side}%`;
    const notes = [`${raw.tokens[n].toLocaleString("en")} tokens`];
    if (raw.std) notes.unshift(`standard deviation ${raw.std[n].toFixed(3)}`);
    for (const [name, values] of Object.entries(raw.outputs ?? {}))
      notes.push(`${name} ${values[n].toFixed(2)}`);
    if (rating) notes.unshift(`raters' scale ${rating.rewards[n].toFixed(2)}`);
    if (probability) notes.unshift(`P(better than average) ${probability.rewards[n].toFixed(3)}`);
    item.querySelector(".notes").append(...notes.map((note) => make("span", note)));
    return item;
  }));
  find("axis").hidden = false;
  find("axis").textContent = normalised
    ? `Bars begin at an average answer, and end at ${side.toFixed(1)} standard deviations from it.`
    : "Bars begin at 0.";
  find("summary").textContent = summary(order, raw);
  find("uncalibrated").hidden = responses.length < 2 || Boolean(raw.probabilities);
  find("pairs").hidden = responses.length < 3 || !raw.probabilities;
  if (!find("pairs").hidden) find("pairs").replaceChildren(table(order, raw.probabilities));
  find("stale").hidden = true;
  find("results").classList.remove("old");
  find("results-title").scrollIntoView({ block: "nearest" });
}

function summary([first, second], { rewards, probabilities }) {
  if (second === undefined) return `The reward is ${rewards[first].toFixed(3)}.`;
  if (rewards[first] === rewards[second]) return "The best answers have the same reward.";
  const best = `Answer ${first + 1} has the highest reward`;
  if (!probabilities) return `${best}.`;
  const sure = probabilities[first][second].toFixed(3);
  return `${best}; it is better than answer ${second + 1} with probability ${sure}.`;
}

function table(order, probabilities) {
  const grid = document.createElement("table");
  grid.append(make("caption", "P(row better than column)"));
  const heading = (text, scope) => Object.assign(make("th", text), { scope });
  const head = grid.createTHead().insertRow();
  head.append(document.createElement("td"), ...order.map((n) => heading(n + 1, "col")));
  const body = grid.createTBody();
  for (const i of order) {
    const cells = order.map((j) => {
      const p = probabilities[i][j];
      return make("td", i === j ? "" : p.toFixed(3), i !== j && p >= 0.75 ? "sure" : "");
    });
    body.insertRow().append(heading(`Answer ${i + 1}`, "row"), ...cells);
  }
  return grid;
}

// ---- what a user does ----

addTurn();
addAnswer();
addAnswer();
for (const [id, addText] of [["add-turn", addTurn], ["add-answer", addAnswer]])
  find(id).addEventListener("click", () => {
    addText().querySelector("textarea").focus();
    changed();
  });
find("texts").addEventListener("input", (event) => event.target.id !== "json" && changed());
find("texts").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(score);
});
find("texts").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  if (event.target.id === "json") attempt(fillAndScore);
  else find("texts").requestSubmit(); // which asks for turns that are empty
});
async function fillAndScore() {
  fill();
  await score();
}
find("fill").addEventListener("click", () => attempt(fillAndScore));
find("access").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = find("token").value;
  find("token").value = "";
  find("access").hidden = true;
  const retry = state.retry;
  attempt(async () => {
    await describe();
    if (retry !== describe) await retry();
  });
});
attempt(describe);
