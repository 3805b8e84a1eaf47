package peer;

import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.HashMap;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.stereotype.Component;
import org.springframework.transaction.support.TransactionTemplate;

/** A record as tutorials handle it: a transaction of its own, a statement at a time, no outbox. */
@Component
@ConditionalOnProperty(name = "LISTENER", havingValue = "single")
class RecordListener {
    private final JdbcTemplate jdbc;
    private final TransactionTemplate transaction;
    private final KafkaTemplate<String, byte[]> kafka;

    RecordListener(JdbcTemplate jdbc, TransactionTemplate transaction, KafkaTemplate<String, byte[]> kafka) {
        this.jdbc = jdbc;
        this.transaction = transaction;
        this.kafka = kafka;
    }

    @KafkaListener(id = "peer", topics = "orders", groupId = "${KAFKA_GROUP_ID}")
    void listen(ConsumerRecord<String, byte[]> record) {
        Peer.Arrival arrival = Peer.decode(record);
        Peer.Answer answer = transaction.execute(status -> handle(arrival));
        if (answer != null)
            kafka.send(Peer.record(answer));
    }

    private Peer.Answer handle(Peer.Arrival arrival) {
        if (jdbc.update("INSERT INTO inbox (id) VALUES (?) ON CONFLICT DO NOTHING", arrival.id()) == 0)
            return null;
        var levels = new HashMap<String, Peer.Stock>();
        for (var item : arrival.order().getItems())
            jdbc.query("SELECT available, reserved FROM stock WHERE sku = ? FOR UPDATE", row -> {
                levels.put(item.getSku(), new Peer.Stock(row.getLong(1), row.getLong(2)));
            }, item.getSku());
        var now = Peer.now();
        Peer.Answer answer = Peer.decide(arrival, levels, now);
        if (answer.state() == Peer.HELD)
            levels.forEach((sku, stock) -> jdbc.update("UPDATE stock SET available = ?, reserved = ? WHERE sku = ?",
                    stock.available, stock.reserved, sku));
        jdbc.update("INSERT INTO reservations VALUES (?, ?, ?::json, ?)", UUID.fromString(answer.key()), answer.state(),
                Peer.items(arrival.order()), OffsetDateTime.ofInstant(now.plus(Peer.TTL), ZoneOffset.UTC));
        return answer;
    }
}
