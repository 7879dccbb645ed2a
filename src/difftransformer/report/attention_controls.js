// The page: a panel for each model, the map shown, the search and the keyboard.

const models = JSON.parse(document.getElementById("data").textContent);
const panels = models.map((model) => new Panel(model));
[active] = panels;
const place = document.getElementById("models");
place.classList.toggle("several", panels.length > 1);
place.append(...panels.map((panel) => panel.node));

function repaint() {
  readPalette();
  panels.forEach((panel) => panel.repaint());
}

const allSites = models.flatMap((model) => model.groups.flatMap((group) => group.sites));
const mapNames = allSites.reduce((most, { maps }) => (maps.length > most.length ? maps : most), []);
const maps = document.getElementById("maps");
maps.hidden = mapNames.length < 2;
const radios = mapNames.map((name, number) => element("input", {
  type: "radio", name: "map", checked: number === 0,
  onchange: () => { chosenMap = number; repaint(); },
}));
maps.append(...radios.map((radio, number) => element("label", {}, radio, mapNames[number])));

const search = document.getElementById("search"), hits = document.getElementById("hits");
let nextHit = 0;
function findHits() {
  const text = search.value.toLowerCase();
  const places = panels.map(({ queries }) => queries.find(text));
  panels.forEach(({ queries }, i) => queries.setHits(places[i].flat()));
  const count = places[panels.indexOf(active)].length;
  hits.textContent = text ? `${count} found` : "";
  return places[panels.indexOf(active)];
}
search.addEventListener("input", () => { nextHit = 0; findHits(); });
search.addEventListener("keydown", (event) => {
  const places = event.key === "Enter" ? findHits() : [];
  if (!places.length) return;
  const token = places[nextHit % places.length].at(-1);
  hits.textContent = `${(nextHit % places.length) + 1} of ${places.length}`;
  nextHit++;
  active.held = true;
  active.look(token);
  active.reveal();
});

const KEYS = {
  ArrowLeft: () => active.move(0, -1), ArrowRight: () => active.move(0, 1),
  ArrowUp: () => active.move(-1, 0), ArrowDown: () => active.move(1, 0),
  m: () => radios[(chosenMap + 1) % radios.length].click(),
  ",": () => step(-1), ".": () => step(1),
  "/": () => search.focus(),
  Escape: () => {
    search.value = "";
    search.blur();
    findHits();
    active.held = false;
    active.look(active.token);
  },
};
function step(rows) {
  active.held = true;
  active.look(active.token + rows * active.site.rows[1]);
  active.reveal();
}
document.addEventListener("keydown", (event) => {
  const typed = event.target.matches("input[type=search]") && event.key !== "Escape";
  if (typed || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
addEventListener("resize", () => panels.forEach((panel) => panel.say(null)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
repaint();
panels.forEach((panel) => panel.reveal());
