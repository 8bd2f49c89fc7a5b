// Who is choosing: a new visitor, or a known user found by the beginning of an id.

function listenToVisitors(chosen) {
  const dialog = byId("visitors");
  const query = byId("user-query");
  const list = byId("user-list");
  let users = [];
  let marked = -1;
  let asked = 0;

  const mark = (place) => {
    marked = users.length ? (place + users.length) % users.length : -1;
    [...list.children].forEach((option, index) => {
      option.setAttribute("aria-selected", String(index === marked));
    });
    const option = list.children[marked];
    if (option) {
      query.setAttribute("aria-activedescendant", option.id);
      option.scrollIntoView({ block: "nearest" });
    } else query.removeAttribute("aria-activedescendant");
  };

  const choose = (user) => {
    dialog.close();
    chosen(user);
  };

  const show = (found) => {
    users = found;
    const options = found.map((user, index) =>
      node(
        "li",
        {
          role: "option",
          id: `user-${index}`,
          "aria-selected": "false",
          onclick: () => choose(user.user_id),
        },
        node("bdi", {}, String(user.user_id)),
        node("span", { className: "quiet" }, `${user.events} ${user.events === 1 ? "event" : "events"}`),
      ),
    );
    list.replaceChildren(...options);
    query.setAttribute("aria-expanded", String(found.length > 0));
    byId("user-words").textContent = found.length ? "" : "No user has an id like that.";
    mark(query.value ? 0 : -1);
  };

  const search = async () => {
    const turn = ++asked;
    try {
      const found = await fetched(`/api/users?query=${encodeURIComponent(query.value.trim())}`);
      if (turn === asked) show(found);
    } catch (error) {
      if (turn === asked) byId("user-words").textContent = error.message;
    }
  };

  query.addEventListener("input", search);
  query.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") mark(marked + 1);
    else if (event.key === "ArrowUp") mark(marked < 0 ? -1 : marked - 1);
    else if (event.key === "Enter" && marked >= 0) choose(users[marked].user_id);
    else return;
    event.preventDefault();
  });
  byId("visitor").addEventListener("click", () => {
    query.value = "";
    dialog.showModal();
    search();
  });
  byId("new-visitor").addEventListener("click", () => choose(null));
  byId("visitors-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside the sheet
  });
}
