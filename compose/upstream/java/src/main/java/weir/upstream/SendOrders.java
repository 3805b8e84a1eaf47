package weir.upstream;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.time.OffsetDateTime;
import java.time.temporal.ChronoUnit;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Sends orders to Weir from Java: kafka-clients and Avro, nothing of Weir's own.
 *
 * <p>Reads one structured CloudEvent a line (compose/sample/orders.ndjson; stdin without FILE), sends every weir.OrderPlaced and
 * passes over the rest. Exits 0 only when the broker has acknowledged all of them.
 */
public final class SendOrders {
    private static final String USAGE = "usage: send --schema FILE [--bootstrap-servers HOST:PORT] [--topic orders] [FILE]";
    /** Without a registry an id is 100 × the event's number + its version: OrderPlaced is 1, this is version 1. */
    private static final int SCHEMA_ID = 101;

    private static final int DELIVERY_SECONDS_MAX = 60;
    private static final int FAILURES_SHOWN_MAX = 10;

    private final ObjectMapper json = new ObjectMapper();
    private final Schema schema;
    private final AtomicInteger failures = new AtomicInteger();

    private SendOrders(Schema schema) {
        this.schema = schema;
    }

    public static void main(String[] words) throws IOException {
        String servers = System.getenv().getOrDefault("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092");
        String topic = "orders";
        String schemaFile = null;
        Path file = null;
        for (int i = 0; i < words.length; i++) {
            boolean flag = words[i].startsWith("--");
            if (flag && i + 1 == words.length) {
                System.err.println(USAGE);
                System.exit(64);
            }
            switch (words[i]) {
                case "--bootstrap-servers" -> servers = words[++i];
                case "--topic" -> topic = words[++i];
                case "--schema" -> schemaFile = words[++i];
                default -> {
                    if (flag || file != null) {
                        System.err.println(USAGE);
                        System.exit(64);
                    }
                    file = Path.of(words[i]);
                }
            }
        }
        if (schemaFile == null) {
            System.err.println(USAGE);
            System.exit(64);
        }
        Schema schema = new Schema.Parser().parse(new File(schemaFile));
        try (BufferedReader lines = file == null
                ? new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))
                : Files.newBufferedReader(file)) {
            System.exit(new SendOrders(schema).send(servers, topic, lines) ? 0 : 1);
        }
    }

    private boolean send(String servers, String topic, BufferedReader lines) throws IOException {
        Properties settings = new Properties();
        settings.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, servers);
        // Both are Java's defaults; they stand here because Weir's promises begin with them.
        settings.put(ProducerConfig.ACKS_CONFIG, "all");
        settings.put(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, "true");
        settings.put(ProducerConfig.DELIVERY_TIMEOUT_MS_CONFIG, DELIVERY_SECONDS_MAX * 1000);
        settings.put(ProducerConfig.MAX_BLOCK_MS_CONFIG, DELIVERY_SECONDS_MAX * 1000);

        int sent = 0;
        try (KafkaProducer<String, byte[]> producer =
                new KafkaProducer<>(settings, new StringSerializer(), new ByteArraySerializer())) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                if (line.isBlank()) {
                    continue;
                }
                JsonNode event = json.readTree(line);
                if (!event.path("type").asText().equals("weir.OrderPlaced")) {
                    continue;
                }
                producer.send(record(topic, event), (metadata, failure) -> {
                    if (failure != null && failures.incrementAndGet() <= FAILURES_SHOWN_MAX) {
                        System.err.println(event.path("subject").asText() + ": " + failure.getMessage());
                    }
                });
                sent++;
            }
            producer.flush();
            producer.close(Duration.ofSeconds(DELIVERY_SECONDS_MAX));
        }
        System.out.println((sent - failures.get()) + " orders sent, " + failures.get() + " failed");
        return failures.get() == 0;
    }

    private ProducerRecord<String, byte[]> record(String topic, JsonNode event) throws IOException {
        JsonNode order = event.get("data");
        ProducerRecord<String, byte[]> record =
                new ProducerRecord<>(topic, order.get("order_id").asText(), encode(order));
        // CloudEvents in binary mode. ce_id is what Weir deduplicates by: send the same one again after a doubt.
        for (String name : List.of("specversion", "id", "source", "type", "time", "subject")) {
            if (event.hasNonNull(name)) {
                header(record, "ce_" + name, event.get(name).asText());
            }
        }
        header(record, "content-type", "application/avro");
        if (event.hasNonNull("traceparent")) {
            header(record, "traceparent", event.get("traceparent").asText());
        }
        return record;
    }

    private static void header(ProducerRecord<?, ?> record, String name, String value) {
        record.headers().add(name, value.getBytes(StandardCharsets.UTF_8));
    }

    /** Confluent framing: a zero byte, the schema's id, then plain Avro binary. */
    private byte[] encode(JsonNode order) throws IOException {
        Schema itemSchema = schema.getField("items").schema().getElementType();
        GenericData.Array<GenericRecord> items =
                new GenericData.Array<>(order.get("items").size(), schema.getField("items").schema());
        for (JsonNode item : order.get("items")) {
            items.add(new GenericRecordBuilder(itemSchema)
                    .set("sku", item.get("sku").asText())
                    .set("quantity", item.get("quantity").asInt())
                    .set("unit_price_minor", item.get("unit_price_minor").asLong())
                    .build());
        }
        GenericRecordBuilder placed = new GenericRecordBuilder(schema)
                .set("order_id", order.get("order_id").asText())
                .set("customer_id", order.get("customer_id").asText())
                .set("email", order.get("email").asText())
                .set("currency", order.get("currency").asText())
                .set("total_minor", order.get("total_minor").asLong())
                .set("items", items)
                .set("placed_at", micros(order.get("placed_at")));
        if (order.hasNonNull("locale")) {
            placed.set("locale", order.get("locale").asText());
        }
        ByteArrayOutputStream value = new ByteArrayOutputStream();
        value.write(0);
        value.write(ByteBuffer.allocate(Integer.BYTES).putInt(SCHEMA_ID).array());
        BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(value, null);
        new GenericDatumWriter<GenericRecord>(schema).write(placed.build(), encoder);
        encoder.flush();
        return value.toByteArray();
    }

    /** RFC 3339 text or microseconds since 1970, as they come in JSON, to what Avro's timestamp-micros holds. */
    private static long micros(JsonNode when) {
        return when.isNumber()
                ? when.asLong()
                : ChronoUnit.MICROS.between(Instant.EPOCH, OffsetDateTime.parse(when.asText()).toInstant());
    }
}
