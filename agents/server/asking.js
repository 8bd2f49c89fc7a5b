// Talking to the server: token, errors in words, and events as they arrive.

const TOKEN = "tastemaker-token";

class Trouble extends Error {
  constructor(words, status) {
    super(words);
    this.status = status;
  }
}

const OFFLINE =
  "The server cannot be reached. Check that it still runs and that you are connected, then try again.";

function troubleWords(status, error, wait) {
  const moment = wait ? ` Try again in ${wait} seconds.` : " Try again in a moment.";
  if (status === 429) return `That was a lot at once.${moment}`;
  if (status === 503) return `Others are being answered first.${moment}`;
  if (status === 504) return "The answer took too long and was given up.";
  if (status === 403) return "The server does not answer this page. Open it under its own address.";
  const words = error && error.message ? String(error.message) : "The server could not answer.";
  return words.charAt(0).toUpperCase() + words.slice(1);
}

async function troubleOf(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // Not an error of this server: the status says enough.
  }
  const words = troubleWords(response.status, error, response.headers.get("Retry-After"));
  return new Trouble(words, response.status);
}

function readToken() {
  try {
    return sessionStorage.getItem(TOKEN) || "";
  } catch {
    return "";
  }
}

function keepToken(token) {
  try {
    sessionStorage.setItem(TOKEN, token);
  } catch {
    // Without storage it is asked for again after a reload.
  }
}

let asking = null;

// Everybody who needs the token waits for the same question.
function askForToken(isWrong) {
  if (asking) return asking;
  asking = new Promise((resolve) => {
    const dialog = byId("keyhole");
    if (isWrong) byId("keyhole-words").textContent = "That was not the token of this server.";
    byId("token").value = "";
    dialog.showModal();
    const stay = (event) => event.preventDefault();
    dialog.addEventListener("cancel", stay);
    byId("keyhole-form").addEventListener(
      "submit",
      () => {
        dialog.removeEventListener("cancel", stay);
        keepToken(byId("token").value.trim());
        asking = null;
        resolve();
      },
      { once: true },
    );
  });
  return asking;
}

async function request(path, { body, signal } = {}) {
  for (;;) {
    const token = readToken();
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    let response;
    try {
      response = await fetch(path, {
        method: body === undefined ? "GET" : "POST",
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal,
        cache: "no-store",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Trouble(OFFLINE, 0);
    }
    if (response.status === 401) {
      await askForToken(Boolean(token));
      continue;
    }
    if (!response.ok) throw await troubleOf(response);
    return response;
  }
}

async function fetched(path, options) {
  return (await request(path, options)).json();
}

// Calls `heard` with each event; ends with the stream, or with an error in words.
async function streamed(path, { body, signal, heard }) {
  const response = await request(path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let whole = false;
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Trouble(OFFLINE, 0);
    }
    if (piece.done) break;
    const frames = (rest + piece.value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      if (!frame.startsWith("data: ")) continue;
      const event = JSON.parse(frame.slice(6));
      if (event.kind === "error") throw new Trouble(troubleWords(500, event.error), 500);
      if (event.kind === "done") whole = true;
      heard(event);
    }
  }
  if (!whole) throw new Trouble("The connection ended before the answer did. Try again.", 0);
}
