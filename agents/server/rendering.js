"use strict";

// Text becomes nodes, never markup: whatever a title or an answer holds is shown as it is.

const byId = (id) => document.getElementById(id);

function node(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "className") made.className = value;
    else if (name === "onclick") made.addEventListener("click", value);
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// The three things an answer may be formatted with: **bold**, lists, and line breaks.
function inline(text) {
  const pieces = text.split(/(\*\*[^\n]+?\*\*(?!\*))/);
  return pieces.map((piece) =>
    /^\*\*[^\n]+\*\*$/.test(piece) ? node("strong", {}, piece.slice(2, -2)) : piece,
  );
}

const LISTS = [
  ["ol", /^\s*(\d{1,3})[.)]\s+/],
  ["ul", /^\s*[-*•]\s+/],
];

function listMark(line) {
  for (const [tag, form] of LISTS) {
    const found = form.exec(line);
    if (found) return { tag, start: found[1], rest: line.slice(found[0].length) };
  }
  return null;
}

function wordsOf(text) {
  const blocks = [];
  let open = null;
  for (const line of text.replace(/\r/g, "").split("\n")) {
    const mark = listMark(line);
    if (mark) {
      if (!open || open.localName !== mark.tag) {
        open = node(mark.tag, mark.start && mark.start !== "1" ? { start: mark.start } : {});
        blocks.push(open);
      }
      open.append(node("li", {}, ...inline(mark.rest)));
    } else if (!line.trim()) {
      if (open && open.localName === "p") open = null;
    } else if (open && open.localName === "p") {
      open.append(node("br"), ...inline(line));
    } else if (open && /^\s{2,}\S/.test(line)) {
      open.lastChild.append(node("br"), ...inline(line.trim()));
    } else {
      open = node("p", {}, ...inline(line));
      blocks.push(open);
    }
  }
  return blocks;
}

// A place that is written into again and again, at most once a frame.
function written(place) {
  let text = "";
  let due = 0;
  const show = () => {
    due = 0;
    place.replaceChildren(...wordsOf(text));
  };
  return {
    add(more) {
      text += more;
      if (!due) due = requestAnimationFrame(show);
    },
    finish() {
      if (due) cancelAnimationFrame(due);
      show();
    },
    get text() {
      return text;
    },
  };
}

function waitingMark() {
  const dots = node("div", { className: "waiting", "aria-hidden": "true" });
  dots.append(node("span"), node("span"), node("span"));
  return dots;
}
