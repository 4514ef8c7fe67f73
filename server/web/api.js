// What the page asks of its server (server/page.py says how answers are packed).

const KINDS = { float32: Float32Array, uint8: Uint8Array, int32: Int32Array };

export class ServerError extends Error {}
export class TokenError extends ServerError {}

const TOKEN = "pyconv-token"; // kept for as long as the tab is open

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

async function asked(url, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(url, { ...options, headers });
  if (response.ok) return response;
  let told = response.statusText;
  try {
    told = (await response.json()).error ?? told;
  } catch {
    // no JSON: the status has to do
  }
  throw new (response.status === 401 ? TokenError : ServerError)(told);
}

function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null);
  return new URLSearchParams(given).toString();
}

/** JSON facts, with `arrays`: a Map of { values, shape } by name. */
async function unpacked(response) {
  const body = await response.arrayBuffer();
  const length = new DataView(body).getUint32(0, true);
  const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length)));
  let offset = 4 + length;
  const arrays = new Map();
  for (const { name, dtype, shape } of facts.arrays) {
    offset = Math.ceil(offset / 8) * 8;
    const count = shape.reduce((product, size) => product * size, 1);
    const values = new KINDS[dtype](body, offset, count);
    offset += values.byteLength;
    arrays.set(name, { values, shape });
  }
  return { ...facts, arrays };
}

export async function models() {
  return (await (await asked("/page/models")).json()).models;
}

export async function colormap() {
  return new Uint8Array(await (await asked("/page/colormap")).arrayBuffer());
}

/** A sample picture's file. */
export async function sample(model, name) {
  return (await asked(`/page/sample/${encodeURIComponent(model)}/${encodeURIComponent(name)}`)).blob();
}

/** @param picture a picture's file as a Blob or an ArrayBuffer, or a Uint8Array of pixels as the network takes them */
export async function see(model, engine, picture) {
  return unpacked(await post(`/page/see?${query({ model, engine })}`, picture));
}

export async function times(model, pixels) {
  return (await post(`/page/times?${query({ model })}`, pixels)).json();
}

export async function explain(kind, model, engine, pixels) {
  return unpacked(await post(`/page/explain/${kind}?${query({ model, engine })}`, pixels));
}

export async function filter(model, layer, channel) {
  return unpacked(await asked(`/page/filter?${query({ model, layer, channel })}`));
}

export async function exciting(model, layer, channel) {
  return unpacked(await asked(`/page/exciting?${query({ model, layer, channel })}`));
}

async function post(url, body) {
  const type = body instanceof Uint8Array ? "application/octet-stream" : body.type || "image/*";
  return asked(url, { method: "POST", body, headers: { "Content-Type": type } });
}
