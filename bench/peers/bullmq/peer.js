// 10,000 e-mail tasks that send nothing, on BullMQ and Redis: added many at a time, worked on 100 at a time. `fill` or `work`.
const fs = require('node:fs');
const { Queue, Worker } = require('bullmq');

const url = new URL(process.env.REDIS_URL);
const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null };
const BULK = 500;

async function fill() {
  const queue = new Queue('mails', { connection });
  const tasks = Number(process.env.TASKS);
  for (let first = 0; first < tasks; first += BULK) {
    const jobs = [];
    for (let n = first; n < Math.min(tasks, first + BULK); n++)
      jobs.push({
        name: 'send_mail',
        data: { number: n, orderId: `order-${n}`, to: `customer${n}@shop.example`, template: 'order_confirmed' },
        opts: { removeOnComplete: true, attempts: 3 },
      });
    await queue.addBulk(jobs);
  }
  await queue.close();
}

function work() {
  const done = fs.openSync(process.env.DONE, 'a');
  const worker = new Worker(
    'mails',
    async (job) => {
      fs.writeSync(done, `${job.data.number} ${(Date.now() / 1000).toFixed(6)}\n`);
    },
    { connection, concurrency: 100 },
  );
  process.on('SIGTERM', () => worker.close().then(() => process.exit(0)));
}

({ fill, work })[process.argv[2]]();
