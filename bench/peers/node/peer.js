// The inventory service with kafkajs, pg and avsc: see ../README.md for what every peer has to do.
const { createHash } = require('node:crypto');
const fs = require('node:fs');
const avro = require('avsc');
const { Kafka, logLevel } = require('kafkajs');
const pg = require('pg');

const { KAFKA_BOOTSTRAP_SERVERS, KAFKA_GROUP_ID, DATABASE_URL, SCHEMAS, MODE } = process.env;
const ORDER_PLACED = 101, STOCK_RESERVED = 501, STOCK_REJECTED = 601;
const HELD = 1, REJECTED = 2;
const TTL_MS = 15 * 60 * 1000;

// int8 as a number: no stock comes near 2^53.
pg.types.setTypeParser(20, Number);
const schema = (name) => avro.Type.forSchema(JSON.parse(fs.readFileSync(`${SCHEMAS}/${name}.avsc`, 'utf8')));
const placed = schema('OrderPlaced'), reserved = schema('StockReserved'), rejected = schema('StockRejected');
const kafka = new Kafka({ brokers: [KAFKA_BOOTSTRAP_SERVERS], logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId: KAFKA_GROUP_ID, maxWaitTimeInMs: 100 });
const producer = kafka.producer({ idempotent: true, allowAutoTopicCreation: false });
const db = new pg.Client(DATABASE_URL);
let sent = [], acks = Promise.resolve(), busy = Promise.resolve(), ended = false;

function decode(message) {
  const { value, headers } = message;
  if (value.length < 5 || value[0] !== 0 || value.readUInt32BE(1) !== ORDER_PLACED) throw new Error('not an OrderPlaced');
  return { id: headers.ce_id.toString(), trace: headers.traceparent.toString(), order: placed.fromBuffer(value.subarray(5)) };
}

function encode(number, type, event) {
  const frame = Buffer.alloc(5);
  frame.writeUInt32BE(number, 1);
  return Buffer.concat([frame, type.toBuffer(event)]);
}

function derived(id, kind) {
  const hash = createHash('sha1').update(Buffer.from(id.replaceAll('-', ''), 'hex')).update(kind).digest();
  hash[6] = (hash[6] & 15) | 0x50;
  hash[8] = (hash[8] & 63) | 0x80;
  const hex = hash.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`;
}

// All items of an order are reserved, or none.
function decide({ id, trace, order }, levels, nowMs) {
  const now = nowMs * 1000;
  const answer = (state, kind, value) => ({ state, key: order.order_id, id: derived(id, kind), kind, trace, value });
  for (const item of order.items) {
    const available = levels.get(item.sku)?.available ?? 0;
    if (available < item.quantity)
      return answer(REJECTED, 'weir.StockRejected', encode(STOCK_REJECTED, rejected,
        { order_id: order.order_id, sku: item.sku, wanted: item.quantity, available, rejected_at: now }));
  }
  for (const item of order.items) {
    levels.get(item.sku).available -= item.quantity;
    levels.get(item.sku).reserved += item.quantity;
  }
  return answer(HELD, 'weir.StockReserved', encode(STOCK_RESERVED, reserved,
    { order_id: order.order_id, reserved_until: now + TTL_MS * 1000, reserved_at: now }));
}

function message(answer) {
  return {
    key: answer.key,
    value: answer.value,
    headers: {
      ce_specversion: '1.0', ce_id: answer.id, ce_source: '/weir/inventory', ce_type: answer.kind,
      ce_time: new Date().toISOString(), ce_subject: answer.key, 'content-type': 'application/avro', traceparent: answer.trace,
    },
  };
}

function send(answers, seqs) {
  sent = seqs;
  acks = answers.length ? producer.send({ topic: 'inventory', acks: -1, messages: answers.map(message) }) : Promise.resolve();
  acks.catch(fail);
}

// What is in the outbox was acknowledged.
async function settle() {
  await acks;
  const settled = sent;
  sent = [];
  return settled;
}

async function forget() {
  const settled = await settle();
  if (settled.length) await db.query({ name: 'done', text: 'DELETE FROM outbox WHERE seq = ANY($1)', values: [settled] });
}

// What a crash has left in the outbox.
async function resume() {
  const { rows } = await db.query('SELECT seq, key, event_id AS id, type AS kind, traceparent AS trace, value FROM outbox ORDER BY seq');
  send(rows, rows.map((row) => row.seq));
  await forget();
}

// One transaction for all, a statement for all of its rows.
async function batch(messages) {
  const arrivals = messages.map(decode);
  const skus = [...new Set(arrivals.flatMap((arrival) => arrival.order.items.map((item) => item.sku)))];
  await db.query('BEGIN');
  const inbox = await db.query({
    name: 'inbox', values: [arrivals.map((arrival) => arrival.id)],
    text: 'INSERT INTO inbox (id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING id',
  });
  const stock = await db.query({
    name: 'get', values: [skus],
    text: 'SELECT sku, available, reserved FROM stock WHERE sku = ANY($1) ORDER BY sku FOR UPDATE',
  });
  const fresh = new Set(inbox.rows.map((row) => row.id));
  const levels = new Map(stock.rows.map((row) => [row.sku, row]));
  const nowMs = Date.now(), answers = [], items = [];
  for (const arrival of arrivals)
    if (fresh.delete(arrival.id)) {
      answers.push(decide(arrival, levels, nowMs));
      items.push(JSON.stringify(arrival.order.items));
    }
  const changed = [...levels.values()];
  await db.query({
    name: 'put', values: [changed.map((row) => row.sku), changed.map((row) => row.available), changed.map((row) => row.reserved)],
    text: 'UPDATE stock s SET available = v.available, reserved = v.reserved FROM unnest($1::text[], $2::bigint[], $3::bigint[])' +
      ' AS v (sku, available, reserved) WHERE s.sku = v.sku',
  });
  const column = (name) => answers.map((answer) => answer[name]);
  await db.query({
    name: 'reserve', values: [column('key'), column('state'), items, new Date(nowMs + TTL_MS)],
    text: 'INSERT INTO reservations SELECT *, $4::timestamptz FROM unnest($1::uuid[], $2::smallint[], $3::json[])',
  });
  await forget();
  const outbox = await db.query({
    name: 'outbox', values: [column('key'), column('id'), column('kind'), column('trace'), column('value')],
    text: 'INSERT INTO outbox (key, event_id, type, traceparent, value)' +
      ' SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::bytea[]) RETURNING seq',
  });
  await db.query('COMMIT');
  send(answers, outbox.rows.map((row) => row.seq));
}

// A record as tutorials handle it: a transaction of its own, a statement at a time, no outbox.
async function one(record) {
  const arrival = decode(record);
  await db.query('BEGIN');
  const noted = await db.query('INSERT INTO inbox (id) VALUES ($1) ON CONFLICT DO NOTHING', [arrival.id]);
  if (!noted.rowCount) {
    await db.query('COMMIT');
    return;
  }
  const levels = new Map();
  for (const item of arrival.order.items) {
    const { rows } = await db.query('SELECT available, reserved FROM stock WHERE sku = $1 FOR UPDATE', [item.sku]);
    if (rows.length) levels.set(item.sku, rows[0]);
  }
  const nowMs = Date.now(), answer = decide(arrival, levels, nowMs);
  if (answer.state === HELD)
    for (const [sku, level] of levels)
      await db.query('UPDATE stock SET available = $2, reserved = $3 WHERE sku = $1', [sku, level.available, level.reserved]);
  await db.query('INSERT INTO reservations VALUES ($1, $2, $3, $4)',
    [answer.key, answer.state, JSON.stringify(arrival.order.items), new Date(nowMs + TTL_MS)]);
  await db.query('COMMIT');
  await producer.send({ topic: 'inventory', acks: -1, messages: [message(answer)] });
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

// Batches and what is done between them take turns.
const inTurn = (work) => (busy = busy.then(work));

async function main() {
  await Promise.all([db.connect(), producer.connect(), consumer.connect()]);
  await resume();
  await consumer.subscribe({ topics: ['orders'], fromBeginning: true });
  const idle = setInterval(() => inTurn(forget).catch(fail), 200);
  process.on('SIGTERM', async () => {
    if (ended) return;
    ended = true;
    clearInterval(idle);
    await consumer.disconnect();
    await inTurn(forget);
    await Promise.all([producer.disconnect(), db.end()]);
    process.exit(0);
  });
  if (MODE === 'record')
    await consumer.run({ autoCommitInterval: 200, eachMessage: ({ message: record }) => inTurn(() => one(record)).catch(fail) });
  else await consumer.run({ eachBatch: ({ batch: got }) => inTurn(() => batch(got.messages)).catch(fail) });
}

main().catch(fail);
