// The conversation: what was said, what is being said, and who is choosing.

const talk = { id: "", user: null, stop: null, judgements: new Map(), cards: null, failed: null };

const CLICKED = /^\/(like|dislike|why)\s+(\d+)\s*$/;

function announce(words) {
  byId("status").textContent = words;
}

function showTrouble(words, again) {
  talk.failed = again || null;
  byId("trouble-words").textContent = words;
  byId("again").hidden = !again;
  byId("trouble").hidden = false;
}

function hideTrouble() {
  byId("trouble").hidden = true;
  talk.failed = null;
}

function setTalking(controller) {
  talk.stop = controller;
  byId("send").hidden = Boolean(controller);
  byId("stop").hidden = !controller;
  if (talk.cards) setBusy(talk.cards, Boolean(controller));
}

function setUser(user) {
  talk.user = user;
  byId("visitor-name").textContent = user === null ? "New visitor" : `User ${user}`;
}

function setConversation(id) {
  talk.id = id;
  const place = id ? `#c=${encodeURIComponent(id)}` : location.pathname;
  history.replaceState(null, "", place);
}

function idInPlace() {
  const found = /^#c=([^&]+)$/.exec(location.hash);
  return found ? decodeURIComponent(found[1]) : "";
}

// --- what was said ---------------------------------------------------------------------------

function clear() {
  if (talk.stop) talk.stop.abort();
  byId("transcript").replaceChildren();
  byId("welcome").hidden = false;
  talk.cards = null;
  talk.judgements = new Map();
  hideTrouble();
}

function newTurn() {
  const turn = node("section", { className: "turn" });
  byId("transcript").append(turn);
  byId("welcome").hidden = true;
  return turn;
}

function lastTurn() {
  return byId("transcript").lastElementChild || newTurn();
}

function cardAt(place) {
  const card = talk.cards && talk.cards.children[place - 1];
  return card ? card.querySelector("h3 bdi").textContent : `number ${place}`;
}

function askedNode(text) {
  const clicked = CLICKED.exec(text);
  const words = clicked && clicked[1] === "why" ? `Why ${cardAt(Number(clicked[2]))}?` : text;
  return node(
    "div",
    { className: "asked", dir: "auto" },
    node("span", { className: "unseen" }, "You: "),
    words,
  );
}

function judgedNode(kind, place) {
  const said = kind === "like" ? "You like " : "You do not like ";
  const title = node("b", {}, node("bdi", {}, cardAt(place)));
  return node("p", { className: "line" }, said, title, ".");
}

function noteOn(line, words) {
  line.append(" ", ...inline(words));
}

function showCards(answer, cards) {
  if (!cards.length) return;
  if (talk.cards) retire(talk.cards, talk.judgements);
  const list = cardsOf(cards, talk.judgements, act);
  const earlier = answer.querySelector(".cards");
  if (earlier) earlier.replaceWith(list);
  else answer.append(list);
  talk.cards = list;
  setBusy(list, Boolean(talk.stop));
}

function answerNode() {
  const words = node("div", { className: "words" });
  const answer = node(
    "article",
    { className: "answer", "aria-label": "Answer", "aria-busy": "true" },
    words,
  );
  return { answer, words };
}

function readTranscript(kept) {
  clear();
  setUser(kept.user === undefined ? null : kept.user);
  let clicked = null;
  for (const said of kept.messages) {
    if (said.role === "user") {
      clicked = CLICKED.exec(said.text);
      const isJudgement = clicked && clicked[1] !== "why";
      const turn = isJudgement ? lastTurn() : newTurn();
      turn.append(isJudgement ? judgedNode(clicked[1], Number(clicked[2])) : askedNode(said.text));
      continue;
    }
    const isNote = clicked && clicked[1] !== "why" && !(said.cards || []).length;
    if (isNote) noteOn(lastTurn().lastElementChild, said.text);
    else {
      const { answer, words } = answerNode();
      lastTurn().append(answer);
      words.append(...wordsOf(said.text));
      showCards(answer, said.cards || []);
      answer.setAttribute("aria-busy", "false");
    }
  }
  const state = kept.state || {};
  for (const id of state.likes || []) talk.judgements.set(String(id), "like");
  for (const id of state.dislikes || []) talk.judgements.set(String(id), "dislike");
  for (const list of document.querySelectorAll(".cards")) {
    for (const [id, judgement] of talk.judgements) pressed(list, id, judgement);
  }
  const last = byId("transcript").lastElementChild;
  if (last) last.scrollIntoView({ block: "start", behavior: "instant" });
}

// --- what is being said ----------------------------------------------------------------------

async function conversation() {
  if (!talk.id) {
    const begun = await fetched("/api/conversations", { body: { user: talk.user } });
    setConversation(begun.id);
  }
  return talk.id;
}

async function listen(text, { heard, controller }) {
  const id = await conversation();
  const path = `/api/conversations/${encodeURIComponent(id)}/messages`;
  await streamed(path, { body: { text }, signal: controller.signal, heard });
}

async function say(text) {
  if (talk.stop) return;
  hideTrouble();
  const controller = new AbortController();
  const turn = newTurn();
  const { answer, words } = answerNode();
  const waiting = waitingMark();
  const pen = written(words);
  turn.append(askedNode(text), answer);
  answer.prepend(waiting);
  setTalking(controller);
  turn.scrollIntoView({ block: "start" });
  announce("Looking.");
  const heard = (event) => {
    if (event.kind === "text") {
      waiting.remove();
      pen.add(event.text);
    } else if (event.kind === "notes" && event.text) {
      words.before(node("p", { className: "understood", dir: "auto" }, event.text));
    } else if (event.kind === "cards") showCards(answer, event.cards);
    else if (event.kind === "done" && event.expired) {
      answer.append(node("p", { className: "line" }, "The time for this answer was over."));
    }
  };
  try {
    await listen(text, { heard, controller });
    announce("The answer is complete.");
  } catch (error) {
    if (controller.signal.aborted) {
      answer.append(node("p", { className: "line" }, "Stopped."));
      announce("Stopped.");
    } else {
      failed(error, turn, pen.text || talk.cards === answer.querySelector(".cards"), text);
    }
  } finally {
    waiting.remove();
    pen.finish();
    answer.setAttribute("aria-busy", "false");
    if (talk.stop === controller) setTalking(null);
  }
}

// An answer that never began leaves no trace but its message, which can be sent again.
function failed(error, turn, hasBegun, text) {
  if (!hasBegun || !turn.querySelector(".words").childNodes.length) turn.remove();
  if (!byId("transcript").childElementCount) byId("welcome").hidden = false;
  else lastTurn().lastElementChild.scrollIntoView({ block: "nearest" });
  showTrouble(error instanceof Trouble ? error.message : "Something went wrong on this page.", () =>
    say(text),
  );
  if (error.status === 400 && !byId("message").value) {
    byId("message").value = text;
    grow();
  }
}

async function judge(kind, place, card) {
  const before = talk.judgements.get(card.item_id);
  const list = talk.cards;
  if (before === kind) {
    announce("That is noted already.");
    return;
  }
  hideTrouble();
  const controller = new AbortController();
  talk.judgements.set(card.item_id, kind);
  pressed(list, card.item_id, kind);
  setTalking(controller);
  let words = "";
  let cards = [];
  const heard = (event) => {
    if (event.kind === "text") words += event.text;
    if (event.kind === "cards") cards = event.cards;
  };
  try {
    await listen(`/${kind} ${place}`, { heard, controller });
    const turn = lastTurn();
    const line = judgedNode(kind, place);
    turn.append(line);
    if (cards.length) showJudgedAnswer(turn, words, cards);
    else if (words) noteOn(line, words);
  } catch (error) {
    if (before) talk.judgements.set(card.item_id, before);
    else talk.judgements.delete(card.item_id);
    pressed(list, card.item_id, before);
    if (!controller.signal.aborted) showTrouble(error.message, () => judge(kind, place, card));
  } finally {
    if (talk.stop === controller) setTalking(null);
  }
}

function showJudgedAnswer(turn, text, cards) {
  const { answer, words } = answerNode();
  words.append(...wordsOf(text));
  turn.append(answer);
  showCards(answer, cards);
  answer.setAttribute("aria-busy", "false");
}

function act(kind, place, card) {
  if (talk.stop) return;
  if (kind === "why") say(`/why ${place}`);
  else if (kind === "more") say(`More like "${card.title}"`);
  else judge(kind, place, card);
}

// --- the message box -------------------------------------------------------------------------

function grow() {
  const box = byId("message");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}

function submit() {
  const box = byId("message");
  const text = box.value.trim();
  if (!text || talk.stop) return;
  box.value = "";
  grow();
  box.focus();
  say(text);
}

function listenToBox() {
  const box = byId("message");
  box.addEventListener("input", grow);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
  });
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  byId("stop").addEventListener("click", () => {
    if (talk.stop) talk.stop.abort();
    box.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (talk.stop) talk.stop.abort();
    else if (!byId("trouble").hidden) hideTrouble();
  });
  byId("again").addEventListener("click", () => {
    const again = talk.failed;
    hideTrouble();
    box.value = "";
    grow();
    if (again) again();
  });
  byId("dismiss").addEventListener("click", () => {
    hideTrouble();
    box.focus();
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the part behind # is the conversation's
    box.focus();
  });
}

// --- the beginning ---------------------------------------------------------------------------

function boundWords({ name, low, high }) {
  const bound = low + 0.75 * (high - low);
  const step = 10 ** Math.max(0, Math.floor(Math.log10(Math.max(1, high - low))) - 1);
  const round = Math.round(bound / step) * step;
  return name === "year" ? `before ${round}` : `with ${name} at most ${round}`;
}

function suggestionsOf(facets) {
  const words = facets.find((facet) => facet.kind !== "number" && facet.values.length > 2);
  const number = facets.find((facet) => facet.kind === "number" && facet.low < facet.high);
  const made = [];
  if (words) {
    const [first, second, third] = words.values;
    made.push(`Something in ${first}`, `${second}, but no ${third}`);
    if (number) {
      made.push(`${first} ${boundWords(number)}`);
    }
  }
  made.push("Surprise me");
  return made;
}

async function showSuggestions() {
  const facets = await fetched("/api/facets");
  const items = suggestionsOf(facets).map((words) =>
    node("li", {}, node("button", { type: "button", onclick: () => say(words) }, words)),
  );
  byId("suggestions").replaceChildren(...items);
}

async function restore() {
  const id = idInPlace();
  if (!id || id === talk.id) return;
  try {
    const kept = await fetched(`/api/conversations/${encodeURIComponent(id)}`);
    readTranscript(kept);
    talk.id = id;
  } catch (error) {
    clear();
    if (error.status === 404) {
      setConversation("");
      showTrouble("That conversation is not kept here any more. A new one begins with your message.");
    } else showTrouble(error.message, restore);
  }
}

function beginAnew(user) {
  clear();
  setConversation("");
  setUser(user);
  byId("message").focus();
}

async function begin() {
  listenToBox();
  listenToVisitors(beginAnew);
  byId("anew").addEventListener("click", () => beginAnew(talk.user));
  window.addEventListener("hashchange", restore);
  window.addEventListener("offline", () => showTrouble(OFFLINE));
  window.addEventListener("online", hideTrouble);
  // On a phone the keyboard would cover the page before it was read.
  if (!idInPlace() && matchMedia("(pointer: fine)").matches) byId("message").focus();
  try {
    await showSuggestions();
  } catch (error) {
    showTrouble(error.message, showSuggestions);
  }
  await restore();
}

begin();
