// Items under an answer. Only those of the newest answer can be judged: places count there.

const LONGEST_CHIP = 40;
const MOST_IN_A_LIST = 6;

function numberWords(value) {
  return Number.isInteger(value) ? String(value) : String(Math.round(value * 100) / 100);
}

function chipsOf(values) {
  const chips = [];
  for (const [name, value] of Object.entries(values)) {
    const named = (words) => chips.push(node("li", {}, node("span", {}, `${name} `), node("bdi", {}, words)));
    if (Array.isArray(value)) {
      const shown = value.slice(0, MOST_IN_A_LIST).map(String);
      if (value.length > shown.length) shown.push(`${value.length - shown.length} more`);
      chips.push(...shown.map((one) => node("li", {}, node("bdi", {}, one))));
    } else if (typeof value === "number") named(numberWords(value));
    else if (typeof value === "boolean") named(value ? "yes" : "no");
    else if (typeof value === "string" && value && value.length <= LONGEST_CHIP) named(value);
  }
  return chips.length ? node("ul", { className: "chips", "aria-label": "Facts" }, ...chips) : null;
}

function longTextOf(values) {
  const found = Object.values(values).find(
    (value) => typeof value === "string" && value.length > LONGEST_CHIP,
  );
  return found ? node("p", { className: "told", dir: "auto" }, found) : null;
}

function oddsOf(probability) {
  if (typeof probability !== "number") return null;
  const percent = Math.round(100 * Math.min(1, Math.max(0, probability)));
  const fill = node("div", { className: "fill" });
  fill.style.width = `${percent}%`;
  return node(
    "div",
    { className: "odds" },
    node("p", {}, "Chance that you like it", node("b", {}, `${percent} %`)),
    node("div", { className: "track", "aria-hidden": "true" }, fill),
  );
}

function reasonsOf(reasons) {
  if (!reasons.length) return null;
  const items = reasons.map((reason) => node("li", { dir: "auto" }, reason));
  return node("ul", { className: "reasons", "aria-label": "Reasons" }, ...items);
}

// `judgement` is "like", "dislike" or undefined; `act(kind, place, card)` is told of every button.
function cardOf(card, place, judgement, act) {
  const title = node("bdi", {}, card.title);
  const button = (kind, words, spoken, pressed) =>
    node(
      "button",
      {
        type: "button",
        "data-kind": kind,
        "aria-label": `${spoken}: ${card.title}`,
        "aria-pressed": pressed,
        onclick: (event) => {
          if (event.currentTarget.getAttribute("aria-disabled") !== "true") act(kind, place, card);
        },
      },
      words,
    );
  const actions = node(
    "div",
    { className: "actions", role: "group", "aria-label": `What you think of ${card.title}` },
    button("like", "Like", "Like", String(judgement === "like")),
    button("dislike", "Dislike", "Dislike", String(judgement === "dislike")),
    button("why", "Why?", "Why"),
    button("more", "More like this", "More like this"),
  );
  return node(
    "li",
    { className: "card", "data-id": card.item_id },
    node("h3", {}, node("span", {}, `${place}`), title),
    chipsOf(card.values || {}),
    longTextOf(card.values || {}),
    oddsOf(card.probability),
    reasonsOf(card.reasons || []),
    actions,
  );
}

function cardsOf(cards, judgements, act) {
  const items = cards.map((card, index) =>
    cardOf(card, index + 1, judgements.get(String(card.item_id)), act),
  );
  return node("ol", { className: "cards", "aria-label": "Recommended items" }, ...items);
}

function pressed(list, id, judgement) {
  for (const card of list.children) {
    if (card.dataset.id !== id) continue;
    for (const kind of ["like", "dislike"]) {
      const button = card.querySelector(`[data-kind="${kind}"]`);
      if (button) button.setAttribute("aria-pressed", String(kind === judgement));
    }
  }
}

function setBusy(list, busy) {
  for (const button of list.querySelectorAll("button")) {
    button.setAttribute("aria-disabled", String(busy));
  }
}

// Cards of an earlier answer keep what was said of them and lose their buttons.
function retire(list, judgements) {
  for (const card of list.children) {
    const said = judgements.get(card.dataset.id);
    const words = { like: "You like this.", dislike: "You do not like this." }[said];
    const actions = card.querySelector(".actions");
    if (!actions) continue;
    if (words) actions.replaceWith(node("p", { className: "judged" }, words));
    else actions.remove();
  }
}
