"""10,000 e-mail tasks that send nothing, on Celery and RabbitMQ: `mails.py` puts them in, the worker notes each that it did."""
import os
import time

from celery import Celery

app = Celery("mails", broker=os.environ["AMQP_URL"])
app.conf.update(task_ignore_result=True, task_acks_late=True, worker_prefetch_multiplier=128, task_default_queue="mails",
                worker_send_task_events=False, broker_connection_retry_on_startup=True,
                broker_transport_options={"confirm_publish": True})
done = os.open(os.environ["DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.task(name="send_mail")
def send_mail(number, order_id, to, template):
    os.write(done, f"{number} {time.time():.6f}\n".encode())


if __name__ == "__main__":
    for n in range(int(os.environ["TASKS"])):
        send_mail.delay(n, f"order-{n}", f"customer{n}@shop.example", "order_confirmed")
