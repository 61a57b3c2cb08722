"use strict";
// The page: it starts a video, plays its chunks as they come, and sends what is typed.

const get = (id) => document.getElementById(id);
const ask = get("ask"), say = get("say"), player = get("player");
const CURVES = {
  brightness: "brightness", saturation: "saturation", latents_mean: "latent mean",
  latents_std: "latent std", latents_extreme: "extremes",
};
const COMPILES_MS = 6000; // longer than a first chunk takes once its programs are compiled
let model = null; // what the server makes videos with
let video = null; // what it last said of the video
let showing = 0; // tells the loops of an earlier video that they are over
let chosen = null; // the chunk that a branch would begin after
let turn = 0; // when the video's turn came

async function call(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  };
  const answer = await fetch(`api/${path}`, options);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

const at = (path = "") => `videos/${video.id}${path}`;
const problem = (error) => { get("problem").textContent = error ? error.message : ""; };

async function begin() {
  model = await call("model");
  ask.chunks.max = model.chunks;
  ask.steps.placeholder = [].concat(model.defaults.steps).join(",");
  ask.guidance_scale.placeholder = model.defaults.guidance_scale;
  for (const name of model.solvers) ask.solver.add(new Option(name));
  ask.solver.value = model.defaults.solver;
  const inside = model.model.replace(/^\w+\((.*)\)$/, "$1");
  get("model").textContent = `On ${model.device}: ${inside}`;
  for (const text of model.examples) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.onclick = () => { ask.prompt.value = text; };
    get("examples").append(button);
  }
  ask.prompt.value = model.examples[0] || "";
  showLength();
}

function showLength() {
  const seconds = (ask.chunks.value * model.frames_per_chunk) / model.fps;
  get("length").textContent = `${seconds.toFixed(1)} s of video`;
}

const readFile = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

async function make() {
  const body = {
    prompt: ask.prompt.value, chunks: Number(ask.chunks.value), seed: Number(ask.seed.value),
    solver: ask.solver.value,
  };
  if (ask.steps.value) body.steps = ask.steps.value.split(",").map(Number);
  if (ask.guidance_scale.value) body.guidance_scale = Number(ask.guidance_scale.value);
  const [file] = ask.file.files;
  if (ask.source.value) {
    if (!file) throw new Error("choose the file to begin from");
    body[ask.source.value] = await readFile(file);
  }
  leave();
  open(await call("videos", body), 0);
  player.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function leave() {
  if (video && ["waiting", "making", "paused"].includes(video.status)) {
    const json = new Blob(["{}"], { type: "application/json" });
    navigator.sendBeacon(`api/${at("/stop")}`, json);
  }
}

function open(described, from) {
  video = described;
  chosen = null;
  showing += 1;
  for (const id of ["say", "controls", "figures"]) get(id).hidden = false;
  for (const id of ["empty", "how"]) get(id).hidden = true;
  player.controls = true;
  turn = 0;
  player.style.aspectRatio = `${video.width} / ${video.height}`;
  for (const [id, path] of [["mp4", "/video.mp4"], ["latents", "/latents.safetensors"],
    ["request", "/request.json"], ["command", "/command.txt"]]) get(id).href = `api/${at(path)}`;
  show();
  follow(showing);
  play(showing, from);
}

// Ask again and again how far the video is.
async function follow(mine) {
  while (mine === showing) {
    const live = ["waiting", "making"].includes(video.status);
    try {
      const wait = video.status === "waiting" ? 1 : video.made ? 10 : 4;
      const next = live ? `?made=${video.made + 1}&wait=${wait}` : "";
      const found = await call(at(next));
      if (mine !== showing) return;
      video = found;
      show();
      if (["done", "stopped", "failed"].includes(video.status)) return;
      if (!live) await new Promise((resolve) => setTimeout(resolve, 1000));
    } catch (error) {
      problem(error);
      await new Promise((resolve) => setTimeout(resolve, 3000));
    }
  }
}

// Hand the player chunk after chunk, as soon as each is made.
async function play(mine, from) {
  const Source = window.ManagedMediaSource || window.MediaSource;
  if (!Source) return playWhole(mine);
  const source = new Source();
  player.disableRemotePlayback = true;
  player.src = URL.createObjectURL(source);
  await new Promise((resolve) => source.addEventListener("sourceopen", resolve, { once: true }));
  const header = await bytes(mine, "/header.mp4");
  if (!header) return;
  const buffer = source.addSourceBuffer(`video/mp4; codecs="${codec(header)}"`);
  await append(buffer, header);
  for (let number = 0; mine === showing && number < video.chunks; number += 1) {
    const data = await bytes(mine, `/chunks/${number}`);
    if (!data) break;
    await append(buffer, data);
    if (number === from) {
      player.currentTime = (from * video.frames_per_chunk) / video.fps;
      player.play().catch(() => {}); // where a browser forbids it, the visitor presses play
    }
  }
  if (mine === showing && source.readyState === "open") source.endOfStream();
}

async function playWhole(mine) {
  while (mine === showing && ["waiting", "making"].includes(video.status)) {
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  if (mine !== showing) return;
  player.src = `api/${at("/video.mp4")}`;
}

async function bytes(mine, path) {
  while (mine === showing) {
    const answer = await fetch(`api/${at(path)}?wait=20`);
    if (answer.ok) return new Uint8Array(await answer.arrayBuffer());
    if (["done", "stopped", "failed"].includes(video.status)) return null;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  return null;
}

function append(buffer, data) {
  return new Promise((resolve, reject) => {
    buffer.addEventListener("updateend", resolve, { once: true });
    buffer.addEventListener("error", reject, { once: true });
    buffer.appendBuffer(data);
  });
}

// The name of the codec, from the box "avcC" of the header: profile, compatibility and level.
function codec(header) {
  const name = [0x61, 0x76, 0x63, 0x43];
  const place = header.findIndex((_, i) => name.every((byte, k) => header[i + k] === byte));
  const three = Array.from(header.slice(place + 5, place + 8));
  return `avc1.${three.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function show() {
  get("state").textContent = sentence();
  const list = get("chunks");
  while (list.children.length > video.chunks) list.lastChild.remove();
  for (let number = 0; number < video.chunks; number += 1) {
    if (!list.children[number]) {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = number + 1;
      button.onclick = () => choose(number);
      item.append(button);
      list.append(item);
    }
    const button = list.children[number].firstChild;
    const change = video.prompts.find((each) => each.chunk === number);
    button.disabled = number >= video.made;
    button.className = change ? "prompt" : "";
    button.title = change ? change.prompt : `chunk ${number + 1}: go back to it`;
    button.setAttribute("aria-pressed", String(chosen === number));
  }
  const ended = ["done", "stopped", "failed"].includes(video.status);
  get("say-button").textContent = chosen === null && !ended ? "Say it" : "Branch";
  get("pause").textContent = video.status === "paused" ? "Go on" : "Pause";
  get("pause").disabled = get("stop").disabled = ended;
  figures();
}

function sentence() {
  const after = chosen === null ? "" : ` A branch goes on after chunk ${chosen + 1}.`;
  if (video.status === "making" && !turn) turn = Date.now();
  const compiles = turn && !video.made && Date.now() - turn > COMPILES_MS;
  const said = video.pending ? ` Next: "${video.pending}"` : "";
  const texts = {
    waiting: video.place ? `Place ${video.place} in the line.` : "Your turn is next.",
    making: `Making chunk ${Math.min(video.made + 1, video.chunks)} of ${video.chunks}.`
      + (compiles ? " Programs for these settings are compiled first: half a minute or more." : ""),
    paused: `Paused after chunk ${video.made}.`,
    done: "Done. Choose a chunk to branch from it.",
    stopped: `Stopped after chunk ${video.made}.`,
    failed: `Failed: ${video.message}`,
  };
  return texts[video.status] + said + after;
}

function figures() {
  const last = video.seconds[video.seconds.length - 1];
  const rate = video.frames_per_chunk / last;
  get("speed").textContent = last
    ? `${rate.toFixed(1)} frames/s, ${(rate / video.fps).toFixed(1)} times real time` : "-";
  get("seconds").textContent = last ? `${last.toFixed(2)} s` : "-";
  get("memory").textContent = video.memory_bytes
    ? `${(video.memory_bytes / 1e9).toFixed(2)} GB` : "not told";
  const curves = get("curves");
  for (const [name, title] of Object.entries(CURVES)) {
    let figure = get(`curve-${name}`);
    if (!figure) {
      figure = document.createElement("figure");
      figure.id = `curve-${name}`;
      figure.innerHTML = '<figcaption><span></span><b></b></figcaption><svg viewBox="0 0 100 30" '
        + 'preserveAspectRatio="none" aria-hidden="true"><polyline/></svg>';
      curves.append(figure);
    }
    const values = video.statistics.map((row) => row[name]);
    const low = Math.min(...values), high = Math.max(...values);
    const x = (i) => (values.length > 1 ? (100 * i) / (values.length - 1) : 50);
    const y = (value) => (high > low ? 27 - (24 * (value - low)) / (high - low) : 15);
    const points = values.map((value, i) => `${x(i)},${y(value)}`);
    figure.querySelector("polyline").setAttribute("points", points.join(" "));
    figure.querySelector("span").textContent = title;
    figure.querySelector("b").textContent = values.length ? values.at(-1).toPrecision(3) : "-";
  }
}

function choose(number) {
  chosen = chosen === number ? null : number;
  player.currentTime = (number * video.frames_per_chunk) / video.fps + 0.01;
  player.play().catch(() => {});
  show();
}

async function speak() {
  const body = { prompt: say.prompt.value, blend: Number(say.blend.value) };
  const ended = ["done", "stopped", "failed"].includes(video.status);
  if (chosen === null && !ended) {
    video = { ...video, ...(await call(at("/prompt"), body)) };
    show();
  } else {
    const chunk = chosen === null ? video.made : chosen + 1;
    const chunks = Math.min(model.chunks, Math.max(video.chunks, chunk + 4));
    const other = await call(at("/branch"), { ...body, chunk, chunks });
    leave();
    open(other, Math.max(0, chunk - 1));
  }
  say.prompt.value = "";
}

const guarded = (work) => async (event) => {
  event.preventDefault();
  problem(null);
  try { await work(event); } catch (error) { problem(error); }
};
ask.onsubmit = guarded(make);
say.onsubmit = guarded(speak);
get("pause").onclick = guarded(async () => {
  await call(at(video.status === "paused" ? "/resume" : "/pause"), {});
});
get("stop").onclick = guarded(() => call(at("/stop"), {}));
ask.chunks.oninput = showLength;
ask.source.onchange = () => { get("file-label").hidden = !ask.source.value; };
window.addEventListener("pagehide", leave);
begin().catch(problem);
