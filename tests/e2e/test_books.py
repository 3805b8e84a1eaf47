"""Each rule of books.py finds the anomaly that it is there for: a hand-made history that is clean, and one planted fault at a time."""
import contextlib
import copy
import os
import sqlite3
import sys
import tempfile

import books

SHOP, RULES = "/shop/test", {rule.__name__: rule for rule in books.Books.RULES}


class History:
    """Four orders: confirmed, declined, out of stock, and cancelled after the money was taken."""

    def __init__(self):
        self.placed, self.events, self.charges, self.refunds, self.mails, self.dead = {}, [], [], [], [], []
        self.stock = {"sku-a": 10, "sku-b": 1}
        self.levels = {"sku-a": (8, 0), "sku-b": (1, 0)}
        self.statuses, self.captured = {}, {"confirmed"}
        self.figures = {"orders": {"placed": 4, "confirmed": 1, "rejected": 2, "cancelled": 1},
                        "revenue": [{"currency": "EUR", "captured_minor": 600, "refunded_minor": 300}],
                        "emails": {"sent": 11, "failed": 0}, "customers": 4}
        for order, sku, quantity in (("confirmed", "sku-a", 2), ("declined", "sku-a", 3), ("short", "sku-b", 5), ("cancelled", "sku-a", 1)):
            self.placed[order] = {"order_id": order, "customer_id": order, "email": order + "@shop.example", "currency": "EUR",
                                  "items": [{"sku": sku, "quantity": quantity, "unit_price_minor": 100}], "total_minor": 300}
            self.add("OrderPlaced", order)
            self.mail(order, "order_received")
        for order in ("confirmed", "declined", "cancelled"):
            self.add("StockReserved", order)
        self.add("StockRejected", "short")
        for order in ("confirmed", "cancelled"):
            self.charges.append((order, "pay-" + order, 300, "EUR", True))
            self.add("PaymentCaptured", order, payment_id="pay-" + order, amount_minor=300, currency="EUR")
            self.mail(order, "payment_receipt")
        self.charges.append(("declined", "pay-declined", 300, "EUR", False))
        self.add("PaymentFailed", "declined")
        self.end("confirmed", "OrderConfirmed", 3, payment_id="pay-confirmed")
        self.end("declined", "OrderRejected", 4, reason="payment failed")
        self.end("short", "OrderRejected", 4, reason="out of stock")
        self.end("cancelled", "OrderCancelled", 5)
        self.refunds.append(("pay-cancelled", 300, "EUR"))
        self.add("PaymentRefunded", "cancelled", payment_id="pay-cancelled", amount_minor=300, currency="EUR")
        self.mail("cancelled", "payment_refund")
        for sku, (available, reserved) in self.levels.items():
            self.add("StockLevel", sku, available=available, reserved=reserved)

    def add(self, name, key, event_id=None, **data):
        topic = books.TOPIC_OF[name]
        data[books.KEY_OF[topic]] = key
        self.events.append(books.Event(topic, 0, len(self.events), key, name, event_id or f"id-{len(self.events)}", data,
                                       {"ce_type": b"weir." + name.encode(), "ce_source": SHOP.encode()}))

    def mail(self, order, template):
        message_id = f"<{order}.{template}@weir>"
        self.mails.append((order + "@shop.example", message_id, template))
        self.add("EmailSent", order, template=template, message_id=message_id)

    def end(self, order, name, status, **data):
        self.add(name, order, **data)
        self.statuses[order] = status
        self.mail(order, {"OrderConfirmed": "order_confirmed", "OrderRejected": "order_rejected", "OrderCancelled": "order_cancelled"}[name])

    def find(self, name, order=None):
        return next(at for at, event in enumerate(self.events) if event.type == name and order in (None, event.key))

    def drop(self, name, order=None):
        del self.events[self.find(name, order)]

    def change(self, name, order, **fields):
        at = self.find(name, order)
        self.events[at] = self.events[at]._replace(**fields)

    def broken_rules(self):
        with tempfile.TemporaryDirectory() as folder:
            databases = {service: os.path.join(folder, service) for service in ("order", "inventory", "payment")}
            for service, table, rows in (
                    ("order", "orders (order_id, status)", self.statuses.items()),
                    ("inventory", "stock (sku, available, reserved)", [(sku, *level) for sku, level in self.levels.items()]),
                    ("payment", "payments (order_id, state)", [(order, 2) for order in self.captured])):
                with contextlib.closing(sqlite3.connect(databases[service])) as database:
                    database.execute("CREATE TABLE " + table)
                    columns = table.count(",") + 1
                    database.executemany(f"INSERT INTO {table.split()[0]} VALUES ({', '.join('?' * columns)})", list(rows))
                    database.commit()
            account = books.Books(self.placed, self.stock, self.events, self.charges, self.refunds, self.mails, databases,
                                  self.figures, self.dead)
            broken = set()
            for name, rule in RULES.items():
                before = len(account.wrong)
                rule(account)
                if len(account.wrong) > before:
                    broken.add(name)
            return broken


def again(history, name, order):
    event = history.events[history.find(name, order)]
    history.events.append(event._replace(offset=len(history.events)))


def dead_letter(history):
    history.dead.append(books.Record("dlq.order", 0, 0, b"confirmed", b"", [("__dlq.errors.message", b"junk")]))


def move_decision(history):
    event = history.events.pop(history.find("OrderConfirmed", "confirmed"))
    history.events.insert(0, event)


def set_level(history, sku, level):
    """On the topic and in the database: wrong in the same way."""
    history.levels[sku] = level
    event = history.events[history.find("StockLevel", sku)]
    event.data["available"], event.data["reserved"] = level


# What is planted, and the rule that has to find it (others may find it as well).
FAULTS = (
    ("an acknowledged order is not in the log", "every_order_is_placed_and_decided_once", lambda h: h.drop("OrderPlaced", "short")),
    ("an order has no end", "every_order_is_placed_and_decided_once", lambda h: h.drop("OrderConfirmed", "confirmed")),
    ("an order has two ends", "every_order_is_placed_and_decided_once", lambda h: h.add("OrderRejected", "confirmed", reason="x")),
    ("an order that nobody placed", "every_order_is_placed_and_decided_once", lambda h: h.add("OrderPlaced", "stranger")),
    ("a decision before its order", "placed_comes_before_the_decision_on_the_topic", move_decision),
    ("reserved twice", "an_order_is_reserved_once_or_rejected", lambda h: h.add("StockReserved", "confirmed")),
    ("reserved and rejected", "an_order_is_reserved_once_or_rejected", lambda h: h.add("StockRejected", "confirmed")),
    ("no answer of the stock", "an_order_is_reserved_once_or_rejected", lambda h: h.drop("StockRejected", "short")),
    ("charged twice", "money_is_taken_once_for_what_is_confirmed_and_only_for_that",
     lambda h: h.charges.append(("confirmed", "pay-2", 300, "EUR", True))),
    ("confirmed without money", "money_is_taken_once_for_what_is_confirmed_and_only_for_that", lambda h: h.charges.pop(0)),
    ("another amount taken", "money_is_taken_once_for_what_is_confirmed_and_only_for_that",
     lambda h: h.charges.__setitem__(0, ("confirmed", "pay-confirmed", 200, "EUR", True))),
    ("money of a confirmed order went back", "money_is_taken_once_for_what_is_confirmed_and_only_for_that",
     lambda h: h.refunds.append(("pay-confirmed", 300, "EUR"))),
    ("money of a cancelled order kept", "money_is_taken_once_for_what_is_confirmed_and_only_for_that", lambda h: h.refunds.clear()),
    ("taken and not said", "money_is_taken_once_for_what_is_confirmed_and_only_for_that", lambda h: h.drop("PaymentCaptured", "cancelled")),
    ("confirmed with another payment", "money_is_taken_once_for_what_is_confirmed_and_only_for_that",
     lambda h: h.change("OrderConfirmed", "confirmed", data={"order_id": "confirmed", "payment_id": "pay-9"})),
    ("units vanished", "stock_is_conserved", lambda h: set_level(h, "sku-a", (7, 0))),
    ("units from nowhere", "stock_is_conserved", lambda h: set_level(h, "sku-b", (2, 0))),
    ("still reserved", "stock_is_conserved", lambda h: set_level(h, "sku-a", (7, 1))),
    ("below zero", "stock_is_conserved", lambda h: set_level(h, "sku-b", (-1, 2))),
    ("rejected for nothing", "rejected_orders_say_why", lambda h: h.drop("PaymentFailed", "declined")),
    ("a mail not said to be sent", "every_mail_was_sent_and_none_that_was_not_due", lambda h: h.drop("EmailSent", "short")),
    ("a mail said, not delivered", "every_mail_was_sent_and_none_that_was_not_due", lambda h: h.mails.pop()),
    ("a mail to a stranger", "every_mail_was_sent_and_none_that_was_not_due",
     lambda h: h.mails.__setitem__(0, ("stranger@shop.example", *h.mails[0][1:]))),
    ("a mail that was not due", "every_mail_was_sent_and_none_that_was_not_due", lambda h: h.mail("short", "payment_refund")),
    ("an order counted twice", "figures_are_those_of_the_topics", lambda h: h.figures["orders"].update(placed=5)),
    ("revenue counted twice", "figures_are_those_of_the_topics", lambda h: h.figures["revenue"][0].update(captured_minor=900)),
    ("a mail counted twice", "figures_are_those_of_the_topics", lambda h: h.figures["emails"].update(sent=12)),
    ("a customer too few", "figures_are_those_of_the_topics", lambda h: h.figures.update(customers=3)),
    ("another key than its order", "keys_and_headers_are_whole",
     lambda h: h.change("StockReserved", "confirmed", data={"order_id": "other"})),
    ("no id", "keys_and_headers_are_whole", lambda h: h.change("StockReserved", "confirmed", id="")),
    ("ce_type of another", "keys_and_headers_are_whole", lambda h: h.change("StockReserved", "confirmed", headers={"ce_type": b"weir.X"})),
    ("bytes that are no event", "keys_and_headers_are_whole", lambda h: h.change("StockReserved", "confirmed", type=None)),
    ("order keeps another end", "databases_say_what_the_log_says", lambda h: h.statuses.update(confirmed=5)),
    ("order has forgotten one", "databases_say_what_the_log_says", lambda h: h.statuses.pop("short")),
    ("payment kept for a declined card", "databases_say_what_the_log_says", lambda h: h.captured.add("declined")),
    ("payment of a confirmed order lost", "databases_say_what_the_log_says", lambda h: h.captured.clear()),
    ("an old stock level", "last_stock_levels_are_those_of_the_database", lambda h: h.levels.update({"sku-b": (1, 1)})),
    ("a dead letter", "no_event_became_a_dead_letter", dead_letter),
)
# What is no fault: a relay that sends again after a crash, a mail that is delivered twice.
ALLOWED = (
    ("nothing", lambda h: None),
    ("an event relayed twice", lambda h: again(h, "OrderConfirmed", "confirmed")),
    ("a mail delivered twice", lambda h: h.mails.append(h.mails[0])),
)


def main():
    clean, failures = History(), []
    for what, plant in ALLOWED:
        history = copy.deepcopy(clean)
        plant(history)
        broken = history.broken_rules()
        if broken:
            failures.append(f"{what}: is none, but {sorted(broken)}")
    for what, rule, plant in FAULTS:
        history = copy.deepcopy(clean)
        plant(history)
        broken = history.broken_rules()
        if rule not in broken:
            failures.append(f"{what}: not found by {rule}, only by {sorted(broken)}")
    for rule in set(RULES) - {rule for _, rule, _ in FAULTS}:
        failures.append(f"nothing is planted for {rule}")
    print("\n".join(failures) or f"{len(FAULTS)} faults are found, {len(ALLOWED)} histories pass")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
