package peer;

import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.time.Instant;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.context.event.EventListener;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.event.ListenerContainerIdleEvent;
import org.springframework.stereotype.Component;
import org.springframework.transaction.support.TransactionTemplate;

/** A poll is one transaction, a statement for all of its rows. What is committed here is sent after it, from the outbox. */
@Component
@ConditionalOnProperty(name = "LISTENER", havingValue = "batch")
class BatchListener {
    private final JdbcTemplate jdbc;
    private final TransactionTemplate transaction;
    private final KafkaTemplate<String, byte[]> kafka;
    private List<Long> sent = List.of();
    private CompletableFuture<?>[] acks = {};

    BatchListener(JdbcTemplate jdbc, TransactionTemplate transaction, KafkaTemplate<String, byte[]> kafka) {
        this.jdbc = jdbc;
        this.transaction = transaction;
        this.kafka = kafka;
        resume();
    }

    private static void array(PreparedStatement statement, int place, String type, List<?> values) throws SQLException {
        Object[] elements = type.equals("bytea") ? values.toArray(new byte[0][]) : values.toArray();
        statement.setArray(place, statement.getConnection().createArrayOf(type, elements));
    }

    /** What a crash has left in the outbox. */
    private void resume() {
        List<Long> seqs = new ArrayList<>();
        List<Peer.Answer> answers = new ArrayList<>();
        jdbc.query("SELECT seq, key, type, event_id, traceparent, value FROM outbox ORDER BY seq", row -> {
            seqs.add(row.getLong(1));
            answers.add(new Peer.Answer(Peer.HELD, row.getString(2), row.getString(3), row.getObject(4, UUID.class),
                    row.getString(5), row.getBytes(6)));
        });
        send(answers, seqs);
        forget();
    }

    private void send(List<Peer.Answer> answers, List<Long> seqs) {
        sent = seqs;
        acks = answers.stream().map(answer -> kafka.send(Peer.record(answer))).toArray(CompletableFuture[]::new);
    }

    private void forget() {
        CompletableFuture.allOf(acks).join();
        if (!sent.isEmpty())
            jdbc.update("DELETE FROM outbox WHERE seq = ANY(?)", statement -> array(statement, 1, "bigint", sent));
        sent = List.of();
        acks = new CompletableFuture[0];
    }

    @EventListener
    void idle(ListenerContainerIdleEvent event) {
        forget();
    }

    @KafkaListener(id = "peer", topics = "orders", groupId = "${KAFKA_GROUP_ID}")
    void listen(List<ConsumerRecord<String, byte[]>> records) {
        List<Peer.Arrival> arrivals = records.stream().map(Peer::decode).toList();
        List<Peer.Answer> answers = new ArrayList<>();
        List<Long> seqs = new ArrayList<>();
        transaction.executeWithoutResult(status -> handle(arrivals, answers, seqs));
        send(answers, seqs);
    }

    private void handle(List<Peer.Arrival> arrivals, List<Peer.Answer> answers, List<Long> seqs) {
        Set<UUID> fresh = new HashSet<>();
        jdbc.query("INSERT INTO inbox (id) SELECT unnest(?::uuid[]) ON CONFLICT DO NOTHING RETURNING id",
                statement -> array(statement, 1, "uuid", arrivals.stream().map(Peer.Arrival::id).toList()),
                row -> {
                    fresh.add(row.getObject(1, UUID.class));
                });
        Set<String> skus = new HashSet<>();
        for (var arrival : arrivals)
            for (var item : arrival.order().getItems())
                skus.add(item.getSku());
        Map<String, Peer.Stock> levels = new HashMap<>();
        jdbc.query("SELECT sku, available, reserved FROM stock WHERE sku = ANY(?) ORDER BY sku FOR UPDATE",
                statement -> array(statement, 1, "text", List.copyOf(skus)),
                row -> {
                    levels.put(row.getString(1), new Peer.Stock(row.getLong(2), row.getLong(3)));
                });

        Instant now = Peer.now();
        List<String> items = new ArrayList<>();
        for (var arrival : arrivals)
            if (fresh.remove(arrival.id())) {
                answers.add(Peer.decide(arrival, levels, now));
                items.add(Peer.items(arrival.order()));
            }
        List<String> changed = List.copyOf(levels.keySet());
        jdbc.update("UPDATE stock s SET available = v.available, reserved = v.reserved FROM unnest(?, ?, ?)"
                + " AS v (sku, available, reserved) WHERE s.sku = v.sku", statement -> {
            array(statement, 1, "text", changed);
            array(statement, 2, "bigint", changed.stream().map(sku -> levels.get(sku).available).toList());
            array(statement, 3, "bigint", changed.stream().map(sku -> levels.get(sku).reserved).toList());
        });
        jdbc.update("INSERT INTO reservations SELECT *, ?::timestamptz FROM unnest(?, ?, ?::json[])", statement -> {
            statement.setObject(1, OffsetDateTime.ofInstant(now.plus(Peer.TTL), ZoneOffset.UTC));
            array(statement, 2, "uuid", answers.stream().map(answer -> UUID.fromString(answer.key())).toList());
            array(statement, 3, "smallint", answers.stream().map(Peer.Answer::state).toList());
            array(statement, 4, "text", items);
        });
        forget();
        jdbc.query("INSERT INTO outbox (key, event_id, type, traceparent, value) SELECT * FROM unnest(?, ?, ?, ?, ?)"
                + " RETURNING seq", statement -> {
            array(statement, 1, "text", answers.stream().map(Peer.Answer::key).toList());
            array(statement, 2, "uuid", answers.stream().map(Peer.Answer::id).toList());
            array(statement, 3, "text", answers.stream().map(Peer.Answer::type).toList());
            array(statement, 4, "text", answers.stream().map(Peer.Answer::trace).toList());
            array(statement, 5, "bytea", answers.stream().map(Peer.Answer::value).toList());
        }, row -> {
            seqs.add(row.getLong(1));
        });
    }
}
