"""10,000 e-mail tasks that send nothing, on pika and RabbitMQ: durable, confirmed, acknowledged many at a time. `fill` or `work`."""
import json
import os
import signal
import sys
import time

import pika

BATCH, QUEUE = 500, "mails"
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
channel.queue_declare(QUEUE, durable=True)
ended = False


def fill():
    # BlockingConnection waits for each confirm; a transaction has one wait for many.
    channel.tx_select()
    for n in range(int(os.environ["TASKS"])):
        body = json.dumps({"number": n, "order_id": f"order-{n}", "to": f"customer{n}@shop.example", "template": "order_confirmed"})
        channel.basic_publish("", QUEUE, body, pika.BasicProperties(delivery_mode=2, content_type="application/json"))
        if n % BATCH == BATCH - 1:
            channel.tx_commit()
    channel.tx_commit()


def end(*_):
    global ended
    ended = True


def work():
    signal.signal(signal.SIGTERM, end)
    done = os.open(os.environ["DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    channel.basic_qos(prefetch_count=2 * BATCH)
    batch, last = [], 0
    for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.1):
        if method:
            last = method.delivery_tag
            batch.append(f"{json.loads(body)['number']} {time.time():.6f}\n")
        if batch and (len(batch) == BATCH or not method):
            os.write(done, "".join(batch).encode())
            channel.basic_ack(last, multiple=True)
            batch = []
        if ended:
            break
    channel.connection.close()


{"fill": fill, "work": work}[sys.argv[1]]()
