package peer;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.time.temporal.ChronoUnit;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.avro.specific.SpecificDatumReader;
import org.apache.avro.specific.SpecificDatumWriter;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.kafka.annotation.EnableKafka;
import weir.OrderPlaced;
import weir.StockRejected;
import weir.StockReserved;

/** What both listeners have in common: decode, decide, encode. Used by the one consumer thread. */
@SpringBootApplication
@EnableKafka
public class Peer {
    static final int ORDER_PLACED = 101, STOCK_RESERVED = 501, STOCK_REJECTED = 601;
    static final short HELD = 1, REJECTED = 2;
    static final Duration TTL = Duration.ofMinutes(15);
    private static final DateTimeFormatter TIME = DateTimeFormatter.ofPattern("yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'");

    record Arrival(UUID id, String trace, OrderPlaced order) {}

    record Answer(short state, String key, String type, UUID id, String trace, byte[] value) {}

    record Item(String sku, int quantity, @JsonProperty("unit_price_minor") long price) {}

    static final class Stock {
        long available;
        long reserved;

        Stock(long available, long reserved) {
            this.available = available;
            this.reserved = reserved;
        }
    }

    private static final SpecificDatumReader<OrderPlaced> READER = new SpecificDatumReader<>(OrderPlaced.class);
    private static final SpecificDatumWriter<StockReserved> RESERVED = new SpecificDatumWriter<>(StockReserved.class);
    private static final SpecificDatumWriter<StockRejected> SHORT = new SpecificDatumWriter<>(StockRejected.class);
    private static final ObjectMapper JSON = new ObjectMapper();
    private static BinaryDecoder decoder;
    private static BinaryEncoder encoder;

    static Arrival decode(ConsumerRecord<String, byte[]> record) {
        byte[] value = record.value();
        if (value.length < 5 || value[0] != 0 || ((value[3] & 255) << 8 | value[4] & 255) != ORDER_PLACED)
            throw new IllegalArgumentException("not an OrderPlaced");
        try {
            decoder = DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, decoder);
            return new Arrival(UUID.fromString(header(record, "ce_id")), header(record, "traceparent"),
                    READER.read(null, decoder));
        } catch (IOException e) {
            throw new IllegalArgumentException(e);
        }
    }

    private static String header(ConsumerRecord<?, ?> record, String name) {
        return new String(record.headers().lastHeader(name).value(), StandardCharsets.UTF_8);
    }

    private static <T> byte[] encode(int id, SpecificDatumWriter<T> writer, T event) {
        try {
            ByteArrayOutputStream out = new ByteArrayOutputStream(96);
            out.write(new byte[] {0, 0, 0, (byte) (id >> 8), (byte) id});
            encoder = EncoderFactory.get().directBinaryEncoder(out, encoder);
            writer.write(event, encoder);
            return out.toByteArray();
        } catch (IOException e) {
            throw new IllegalStateException(e);
        }
    }

    /** Reserves all items of an order, or none. */
    static Answer decide(Arrival arrival, Map<String, Stock> levels, Instant now) {
        OrderPlaced order = arrival.order();
        for (var item : order.getItems()) {
            Stock stock = levels.get(item.getSku());
            long available = stock == null ? 0 : stock.available;
            if (available < item.getQuantity())
                return answer(REJECTED, arrival, "weir.StockRejected", encode(STOCK_REJECTED, SHORT, new StockRejected(
                        order.getOrderId(), item.getSku(), item.getQuantity(), (int) available, now)));
        }
        for (var item : order.getItems()) {
            Stock stock = levels.get(item.getSku());
            stock.available -= item.getQuantity();
            stock.reserved += item.getQuantity();
        }
        return answer(HELD, arrival, "weir.StockReserved",
                encode(STOCK_RESERVED, RESERVED, new StockReserved(order.getOrderId(), now.plus(TTL), now)));
    }

    private static Answer answer(short state, Arrival arrival, String type, byte[] value) {
        UUID id = UUID.nameUUIDFromBytes((arrival.id() + type).getBytes(StandardCharsets.UTF_8));
        return new Answer(state, arrival.order().getOrderId(), type, id, arrival.trace(), value);
    }

    static ProducerRecord<String, byte[]> record(Answer answer) {
        var record = new ProducerRecord<>("inventory", answer.key(), answer.value());
        header(record, "ce_specversion", "1.0");
        header(record, "ce_id", answer.id().toString());
        header(record, "ce_source", "/weir/inventory");
        header(record, "ce_type", answer.type());
        header(record, "ce_time", TIME.format(OffsetDateTime.now(ZoneOffset.UTC)));
        header(record, "ce_subject", answer.key());
        header(record, "content-type", "application/avro");
        header(record, "traceparent", answer.trace());
        return record;
    }

    private static void header(ProducerRecord<?, ?> record, String name, String value) {
        record.headers().add(name, value.getBytes(StandardCharsets.UTF_8));
    }

    static String items(OrderPlaced order) {
        List<Item> items = order.getItems().stream()
                .map(item -> new Item(item.getSku(), item.getQuantity(), item.getUnitPriceMinor())).toList();
        try {
            return JSON.writeValueAsString(items);
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e);
        }
    }

    static Instant now() {
        return Instant.now().truncatedTo(ChronoUnit.MICROS);
    }

    public static void main(String[] arguments) {
        URI url = URI.create(System.getenv("DATABASE_URL"));
        System.setProperty("spring.datasource.url", "jdbc:postgresql://" + url.getHost() + ":" + url.getPort() + url.getPath());
        System.setProperty("spring.datasource.username", url.getUserInfo());
        System.setProperty("LISTENER", System.getenv("MODE").equals("record") ? "single" : "batch");
        SpringApplication.run(Peer.class, arguments);
    }
}
