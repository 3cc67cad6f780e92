// The map of items on its page: what eda/atlas_page.py packed is unpacked, drawn by WebGL, and walked about in.
"use strict";
const $ = (id) => document.getElementById(id);
const NEAR = 12; // pixels within which the mouse finds an item
const LISTED = 12; // matches listed

async function unpack() {
  const text = atob($("data").textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const start = 4 + new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, start - 4)));
  const types = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float64: Float64Array };
  const arrays = {};
  for (const [name, place] of Object.entries(header.arrays))
    arrays[name] = new types[place.type](buffer, start + place.offset, place.length);
  header.columns.forEach((column, i) => { column.array = arrays["column " + i]; });
  return { ...header, ...arrays };
}

// What is known of item i: a text, a number, or null.
function value(column, i) {
  if (column.texts) return column.texts[i];
  const known = column.array[i];
  if (column.values) return known ? column.values[known - 1] : null;
  return Number.isNaN(known) ? null : known;
}

const VERTEX = `
  attribute vec2 flat_place;
  attribute vec3 solid_place;
  attribute float group;
  attribute float found;
  uniform mat4 view;
  uniform float solid, size, searching, matches;
  uniform vec3 colors[32];
  uniform float shown[32];
  varying vec4 color;
  void main() {
    vec3 place = solid > 0.5 ? solid_place * 2.0 - 1.0 : vec3(flat_place * 2.0 - 1.0, 0.0);
    int g = int(group + 0.5);
    gl_Position = view * vec4(place, 1.0);
    float match = searching * step(0.5, found);
    float lost = searching - match;
    gl_PointSize = max(1.0, size * (1.0 + 0.4 * match) / (solid > 0.5 ? sqrt(max(gl_Position.w, 0.3) / 3.0) : 1.0));
    color = vec4(mix(colors[g], vec3(0.86, 0.88, 0.9), lost), mix(0.85, 0.35, lost));
    if (shown[g] < 0.5 || (matches > 0.5) != (match > 0.5)) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  }`;
const FRAGMENT = `
  precision mediump float;
  varying vec4 color;
  void main() {
    float edge = length(gl_PointCoord - 0.5);
    if (edge > 0.5) discard;
    gl_FragColor = vec4(color.rgb, color.a * (1.0 - smoothstep(0.4, 0.5, edge)));
  }`;

function program(gl) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  gl.useProgram(made);
  return made;
}

function start(atlas) {
  const canvas = $("map");
  const gl = canvas.getContext("webgl", { antialias: false, alpha: false });
  if (!gl) throw new Error("This browser draws no WebGL; the PNG files beside this page show the same map.");
  const drawing = program(gl);
  const uniform = (name) => gl.getUniformLocation(drawing, name);
  const names = ["view", "solid", "size", "searching", "matches", "colors", "shown"];
  const uniforms = Object.fromEntries(names.map((name) => [name, uniform(name)]));
  const attribute = (name, data, width, type, normalized) => {
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    const place = gl.getAttribLocation(drawing, name);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, width, type, normalized, 0, 0);
    return buffer;
  };
  const found = new Uint8Array(atlas.count);
  attribute("flat_place", atlas.flat, 2, gl.UNSIGNED_SHORT, true);
  attribute("solid_place", atlas.solid, 3, gl.UNSIGNED_SHORT, true);
  attribute("group", atlas.group, 1, gl.UNSIGNED_BYTE, false);
  const foundBuffer = attribute("found", found, 1, gl.UNSIGNED_BYTE, false);
  const shown = new Float32Array(32).fill(1);
  const colors = new Float32Array(96);
  atlas.colors.forEach((color, g) => {
    for (let c = 0; c < 3; c++) colors[3 * g + c] = parseInt(color.slice(1 + 2 * c, 3 + 2 * c), 16) / 255;
  });
  gl.uniform3fv(uniforms.colors, colors);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  gl.depthFunc(gl.LEQUAL);
  gl.clearColor(1, 1, 1, 1);

  const state = { solid: false, moving: false, searching: false };
  const eye = {};
  const home = () => Object.assign(eye, { x: 0, y: 0, z: 0, zoom: 1, yaw: 0.6, pitch: 0.35 });
  home();

  // Column by column: from places to the canvas, -1 to 1.
  function view() {
    const wide = canvas.clientWidth / Math.max(canvas.clientHeight, 1);
    const sx = Math.min(1, 1 / wide), sy = Math.min(1, wide);
    if (!state.solid) {
      const s = 0.94 * eye.zoom;
      return [s * sx, 0, 0, 0, 0, s * sy, 0, 0, 0, 0, 1, 0, -eye.x * s * sx, -eye.y * s * sy, 0, 1];
    }
    const cy = Math.cos(eye.yaw), ny = Math.sin(eye.yaw), cp = Math.cos(eye.pitch), np = Math.sin(eye.pitch);
    const right = [cy, 0, -ny], up = [ny * np, cp, cy * np], back = [ny * cp, -np, cy * cp];
    const distance = 3 / eye.zoom, f = 2.6, near = 0.02, far = distance + 4;
    const dot = (a) => -(a[0] * eye.x + a[1] * eye.y + a[2] * eye.z);
    const result = new Array(16);
    const depth = (far + near) / (near - far);
    for (let c = 0; c < 3; c++) {
      result[4 * c] = f * sx * right[c];
      result[4 * c + 1] = f * sy * up[c];
      result[4 * c + 2] = depth * back[c];
      result[4 * c + 3] = -back[c];
    }
    result[12] = f * sx * dot(right);
    result[13] = f * sy * dot(up);
    result[14] = depth * (dot(back) - distance) + 2 * far * near / (near - far);
    result[15] = distance - dot(back);
    return result;
  }

  function pointSize() {
    const room = Math.sqrt(canvas.clientWidth * canvas.clientHeight / Math.max(atlas.count, 1));
    return Math.min(9, Math.max(1.6, 0.28 * room)) * (state.solid ? 1 : Math.min(3, Math.sqrt(eye.zoom)));
  }

  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const sharp = window.devicePixelRatio || 1;
      const width = Math.round(canvas.clientWidth * sharp), height = Math.round(canvas.clientHeight * sharp);
      if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
      gl.viewport(0, 0, width, height);
      (state.solid ? gl.enable : gl.disable).call(gl, gl.DEPTH_TEST);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.uniformMatrix4fv(uniforms.view, false, view());
      gl.uniform1f(uniforms.solid, state.solid ? 1 : 0);
      gl.uniform1f(uniforms.size, pointSize() * sharp);
      gl.uniform1f(uniforms.searching, state.searching ? 1 : 0);
      gl.uniform1fv(uniforms.shown, shown);
      // The items come in a random order, so the first ones are a fair sample of all.
      const count = state.moving ? Math.min(atlas.count, atlas.moving) : atlas.count;
      for (const matches of state.searching ? [0, 1] : [0]) { // what was found lies on top
        gl.depthMask(!state.searching || matches === 1);
        gl.uniform1f(uniforms.matches, matches);
        gl.drawArrays(gl.POINTS, 0, count);
      }
      gl.depthMask(true);
    });
  }

  // ---------------------------------------------------------------------------------------------- what is where

  // The item nearest to a place on the canvas in pixels, or -1; in 3-D the one in front, of those that are near.
  function nearest(px, py) {
    const m = view(), w = canvas.clientWidth / 2, h = canvas.clientHeight / 2;
    const width = state.solid ? 3 : 2, places = state.solid ? atlas.solid : atlas.flat;
    let best = -1, least = NEAR * NEAR;
    for (let i = 0; i < atlas.count; i++) {
      if (!shown[atlas.group[i]] || (state.searching && !found[i])) continue;
      const x = places[width * i] / 32767.5 - 1, y = places[width * i + 1] / 32767.5 - 1;
      const z = state.solid ? places[3 * i + 2] / 32767.5 - 1 : 0;
      const q = m[3] * x + m[7] * y + m[11] * z + m[15];
      if (q <= 0) continue;
      const dx = ((m[0] * x + m[4] * y + m[8] * z + m[12]) / q + 1) * w - px;
      const dy = (1 - (m[1] * x + m[5] * y + m[9] * z + m[13]) / q) * h - py;
      const apart = (dx * dx + dy * dy + 1) * (state.solid ? q : 1);
      if (dx * dx + dy * dy < NEAR * NEAR && apart < (best < 0 ? Infinity : least)) { least = apart; best = i; }
    }
    return best;
  }

  function where(i) {
    const m = view(), places = state.solid ? atlas.solid : atlas.flat, width = state.solid ? 3 : 2;
    const p = [0, 1, 2].map((c) => c < width ? places[width * i + c] / 32767.5 - 1 : 0);
    const q = m[3] * p[0] + m[7] * p[1] + m[11] * p[2] + m[15];
    const at = (r) => (m[r] * p[0] + m[4 + r] * p[1] + m[8 + r] * p[2] + m[12 + r]) / q;
    return [(at(0) + 1) * canvas.clientWidth / 2, (1 - at(1)) * canvas.clientHeight / 2];
  }

  function element(tag, text, parent) {
    const made = document.createElement(tag);
    made.textContent = text;
    parent.append(made);
    return made;
  }

  function card(i, px, py) {
    const box = $("card");
    box.hidden = i < 0;
    if (i < 0) return;
    box.replaceChildren();
    element("b", atlas.ids[i], box);
    for (const column of atlas.columns) {
      const known = value(column, i);
      if (known === null) continue;
      const line = element("div", "", box);
      element("span", column.name, line);
      element("em", typeof known === "number" ? known.toLocaleString("en", { maximumFractionDigits: 6 }) : known, line);
    }
    const left = px + 16 + box.offsetWidth > canvas.clientWidth ? px - 16 - box.offsetWidth : px + 16;
    const top = Math.min(py + 12, canvas.clientHeight - box.offsetHeight - 8);
    box.style.left = Math.max(left, 4) + "px";
    box.style.top = Math.max(top, 4) + "px";
  }

  // ------------------------------------------------------------------------------------------------ the view

  let held = null, asked = null, still = 0;
  function move() {
    state.moving = true;
    clearTimeout(still);
    still = setTimeout(() => { state.moving = false; draw(); }, 160);
    card(-1);
    draw();
  }
  canvas.addEventListener("pointerdown", (event) => {
    held = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointercancel", () => { held = null; });
  canvas.addEventListener("pointerleave", () => { asked = null; card(-1); });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    if (held) {
      const dx = event.clientX - held[0], dy = event.clientY - held[1];
      held = [event.clientX, event.clientY];
      if (state.solid) {
        eye.yaw -= dx * 0.006;
        eye.pitch = Math.max(-1.55, Math.min(1.55, eye.pitch + dy * 0.006));
      } else {
        const scale = 2 / (0.94 * eye.zoom * Math.min(box.width, box.height));
        eye.x -= dx * scale;
        eye.y += dy * scale;
      }
      move();
    } else {
      const free = asked === null;
      asked = [event.clientX - box.left, event.clientY - box.top];
      if (free) requestAnimationFrame(() => { if (asked && !held) card(nearest(...asked), ...asked); asked = null; });
    }
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const before = eye.zoom;
    eye.zoom = Math.max(0.4, Math.min(400, before * Math.exp(-event.deltaY * 0.0015)));
    if (!state.solid) { // what is under the mouse stays there
      const box = canvas.getBoundingClientRect(), half = 0.94 * Math.min(box.width, box.height) / 2;
      const dx = event.clientX - box.left - box.width / 2, dy = box.height / 2 - (event.clientY - box.top);
      eye.x += dx / half * (1 / before - 1 / eye.zoom);
      eye.y += dy / half * (1 / before - 1 / eye.zoom);
    }
    move();
  }, { passive: false });
  function turn(solid) {
    state.solid = solid;
    $("flat").setAttribute("aria-pressed", !solid);
    $("solid").setAttribute("aria-pressed", solid);
    home();
    card(-1);
    draw();
  }
  $("flat").onclick = () => turn(false);
  $("solid").onclick = () => turn(true);
  $("reset").onclick = () => { home(); card(-1); draw(); };
  new ResizeObserver(draw).observe(canvas);

  function go(i) {
    const places = state.solid ? atlas.solid : atlas.flat, width = state.solid ? 3 : 2;
    [eye.x, eye.y, eye.z] = [0, 1, 2].map((c) => c < width ? places[width * i + c] / 32767.5 - 1 : 0);
    eye.zoom = Math.max(eye.zoom, 6);
    draw();
    card(i, ...where(i));
  }

  // ------------------------------------------------------------------------------------------ groups and search

  const sizes = new Array(atlas.groups.length).fill(0);
  for (let i = 0; i < atlas.count; i++) sizes[atlas.group[i]]++;
  $("by").textContent = atlas.color_by;
  const switches = atlas.groups.map((name, g) => {
    const button = element("button", "", element("li", "", $("groups")));
    element("i", "", button).style.background = atlas.colors[g];
    element("span", name, button).title = name;
    element("small", sizes[g].toLocaleString("en"), button);
    button.onclick = () => show(g, !shown[g]);
    return button;
  });
  function show(g, on) {
    shown[g] = on ? 1 : 0;
    switches[g].setAttribute("aria-pressed", on);
    draw();
  }
  const everything = (on) => switches.forEach((_, g) => show(g, on));
  $("all").onclick = () => everything(true);
  $("none").onclick = () => everything(false);
  everything(true);

  const small = (texts) => texts.map((text) => text === null ? "" : text.toLowerCase());
  let ids = null;
  function search() {
    const words = $("search").value.trim().toLowerCase();
    $("matches").replaceChildren();
    state.searching = words !== "";
    found.fill(0);
    let count = 0;
    if (words) {
      ids ??= small(atlas.ids);
      const tests = [(i) => ids[i].includes(words)];
      for (const column of atlas.columns) {
        if (column.texts) {
          column.small ??= small(column.texts);
          tests.push((i) => column.small[i].includes(words));
        } else if (column.values) {
          const hit = [false, ...small(column.values).map((text) => text.includes(words))];
          if (hit.includes(true)) tests.push((i) => hit[column.array[i]]);
        }
      }
      const listed = [];
      for (let i = 0; i < atlas.count; i++) {
        if (!tests.some((test) => test(i))) continue;
        found[i] = 1;
        count++;
        if (ids[i] === words) listed.unshift(i); // the very item first
        else if (listed.length < LISTED) listed.push(i);
      }
      for (const i of listed.slice(0, LISTED)) {
        const button = element("button", "", element("li", "", $("matches")));
        element("i", "", button).style.background = atlas.colors[atlas.group[i]];
        element("span", label(i), button);
        button.onclick = () => go(i);
      }
    }
    $("found").textContent = words ? `${count.toLocaleString("en")} found` : "";
    gl.bindBuffer(gl.ARRAY_BUFFER, foundBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, found, gl.DYNAMIC_DRAW);
    card(-1);
    draw();
  }
  function label(i) {
    const named = atlas.columns.find((column) => column.texts) || atlas.columns.find((column) => column.values);
    const text = named && value(named, i);
    return text ? `${atlas.ids[i]} · ${text}` : atlas.ids[i];
  }
  let typing = 0;
  $("search").oninput = () => { clearTimeout(typing); typing = setTimeout(search, 150); };
  $("search").onkeydown = (event) => {
    if (event.key !== "Enter") return;
    clearTimeout(typing);
    search();
    $("matches").querySelector("button")?.click();
  };
  $("message").hidden = true;
  draw();
}

unpack().then(start).catch((error) => { $("message").hidden = false; $("message").textContent = String(error.message || error); });
