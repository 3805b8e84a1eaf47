// The inventory service with franz-go, pgx and hamba/avro: see ../README.md for what every peer has to do.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/hamba/avro/v2"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	orderPlacedID, stockReservedID, stockRejectedID = 101, 501, 601
	reservationTTL                                  = 15 * time.Minute
	held, rejected                                  = int16(1), int16(2)
)

type item struct {
	Sku            string `avro:"sku" json:"sku"`
	Quantity       int32  `avro:"quantity" json:"quantity"`
	UnitPriceMinor int64  `avro:"unit_price_minor" json:"unit_price_minor"`
}

type orderPlaced struct {
	OrderID    string    `avro:"order_id"`
	CustomerID string    `avro:"customer_id"`
	Email      string    `avro:"email"`
	Locale     string    `avro:"locale"`
	Currency   string    `avro:"currency"`
	TotalMinor int64     `avro:"total_minor"`
	Items      []item    `avro:"items"`
	PlacedAt   time.Time `avro:"placed_at"`
}

type stockReserved struct {
	OrderID       string    `avro:"order_id"`
	ReservedUntil time.Time `avro:"reserved_until"`
	ReservedAt    time.Time `avro:"reserved_at"`
}

type stockRejected struct {
	OrderID    string    `avro:"order_id"`
	Sku        string    `avro:"sku"`
	Wanted     int32     `avro:"wanted"`
	Available  int32     `avro:"available"`
	RejectedAt time.Time `avro:"rejected_at"`
}

type arrival struct {
	id    [16]byte
	trace string
	order orderPlaced
}

type stock struct{ available, reserved int64 }

type answer struct {
	key, kind, trace string
	id               [16]byte
	value            []byte
}

type peer struct {
	kafka                                        *kgo.Client
	db                                           *pgx.Conn
	placedSchema, reservedSchema, rejectedSchema avro.Schema
	sent                                         []int64    // in the outbox, on their way
	acks                                         chan error // one for each of them
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func schema(name string) avro.Schema {
	return must(avro.ParseFiles(os.Getenv("SCHEMAS") + "/" + name + ".avsc"))
}

func (p *peer) decode(record *kgo.Record) (arrival, error) {
	var got arrival
	v := record.Value
	if len(v) < 5 || v[0] != 0 || int(v[3])<<8|int(v[4]) != orderPlacedID {
		return got, errors.New("not an OrderPlaced")
	}
	for _, header := range record.Headers {
		switch header.Key {
		case "ce_id":
			id, err := uuid.ParseBytes(header.Value)
			if err != nil {
				return got, err
			}
			got.id = id
		case "traceparent":
			got.trace = string(header.Value)
		}
	}
	return got, avro.Unmarshal(p.placedSchema, v[5:], &got.order)
}

func (p *peer) encode(kind string, from *arrival, id int, schema avro.Schema, event any) (answer, error) {
	value, err := avro.Marshal(schema, event)
	return answer{key: from.order.OrderID, kind: kind, trace: from.trace, id: uuid.NewSHA1(from.id, []byte(kind)),
		value: append([]byte{0, 0, 0, byte(id >> 8), byte(id)}, value...)}, err
}

// decide reserves all items of an order, or none.
func (p *peer) decide(from *arrival, levels map[string]*stock, now time.Time) (int16, answer, error) {
	for _, item := range from.order.Items {
		level := levels[item.Sku]
		if level == nil {
			level = &stock{}
		}
		if level.available < int64(item.Quantity) {
			got, err := p.encode("weir.StockRejected", from, stockRejectedID, p.rejectedSchema, stockRejected{
				from.order.OrderID, item.Sku, item.Quantity, int32(level.available), now})
			return rejected, got, err
		}
	}
	for _, item := range from.order.Items {
		levels[item.Sku].available -= int64(item.Quantity)
		levels[item.Sku].reserved += int64(item.Quantity)
	}
	got, err := p.encode("weir.StockReserved", from, stockReservedID, p.reservedSchema,
		stockReserved{from.order.OrderID, now.Add(reservationTTL), now})
	return held, got, err
}

func record(a *answer) *kgo.Record {
	return &kgo.Record{Topic: "inventory", Key: []byte(a.key), Value: a.value, Headers: []kgo.RecordHeader{
		{Key: "ce_specversion", Value: []byte("1.0")},
		{Key: "ce_id", Value: []byte(uuid.UUID(a.id).String())},
		{Key: "ce_source", Value: []byte("/weir/inventory")},
		{Key: "ce_type", Value: []byte(a.kind)},
		{Key: "ce_time", Value: []byte(time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"))},
		{Key: "ce_subject", Value: []byte(a.key)},
		{Key: "content-type", Value: []byte("application/avro")},
		{Key: "traceparent", Value: []byte(a.trace)},
	}}
}

// send puts answers that are in the outbox on their way; settle waits for them.
func (p *peer) send(ctx context.Context, answers []answer, seqs []int64) {
	p.sent, p.acks = seqs, make(chan error, len(answers))
	acks := p.acks
	for i := range answers {
		p.kafka.Produce(ctx, record(&answers[i]), func(_ *kgo.Record, err error) { acks <- err })
	}
}

func (p *peer) settle() ([]int64, error) {
	for range p.sent {
		if err := <-p.acks; err != nil {
			return nil, err
		}
	}
	sent := p.sent
	p.sent = nil
	return sent, nil
}

// forget deletes what was acknowledged when no batch follows that could do it.
func (p *peer) forget(ctx context.Context) error {
	sent, err := p.settle()
	if err == nil && len(sent) > 0 {
		_, err = p.db.Exec(ctx, "DELETE FROM outbox WHERE seq = ANY($1)", sent)
	}
	return err
}

// resume sends what a crash has left in the outbox.
func (p *peer) resume(ctx context.Context) error {
	rows := must(p.db.Query(ctx, "SELECT seq, key, event_id, type, traceparent, value FROM outbox ORDER BY seq"))
	var answers []answer
	var seqs []int64
	for rows.Next() {
		var a answer
		var seq int64
		if err := rows.Scan(&seq, &a.key, &a.id, &a.kind, &a.trace, &a.value); err != nil {
			return err
		}
		answers, seqs = append(answers, a), append(seqs, seq)
	}
	p.send(ctx, answers, seqs)
	return p.forget(ctx)
}

// batch handles records in one transaction and two round trips.
func (p *peer) batch(ctx context.Context, records []*kgo.Record) error {
	arrivals := make([]arrival, len(records))
	ids := make([][16]byte, len(records))
	first := make(map[[16]byte]int, len(records))
	skus := map[string]bool{}
	for i, record := range records {
		var err error
		if arrivals[i], err = p.decode(record); err != nil {
			return err
		}
		ids[i] = arrivals[i].id
		if _, seen := first[ids[i]]; !seen {
			first[ids[i]] = i
		}
		for _, item := range arrivals[i].order.Items {
			skus[item.Sku] = true
		}
	}
	wanted := make([]string, 0, len(skus))
	for sku := range skus {
		wanted = append(wanted, sku)
	}

	reads := &pgx.Batch{}
	reads.Queue("BEGIN")
	reads.Queue("INSERT INTO inbox (id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING id", ids)
	reads.Queue("SELECT sku, available, reserved FROM stock WHERE sku = ANY($1) ORDER BY sku FOR UPDATE", wanted)
	results := p.db.SendBatch(ctx, reads)
	if _, err := results.Exec(); err != nil {
		return err
	}
	fresh := make([]bool, len(records))
	rows, err := results.Query()
	if err != nil {
		return err
	}
	for rows.Next() {
		var id [16]byte
		if err := rows.Scan(&id); err != nil {
			return err
		}
		fresh[first[id]] = true
	}
	levels := make(map[string]*stock, len(wanted))
	if rows, err = results.Query(); err != nil {
		return err
	}
	for rows.Next() {
		var sku string
		level := &stock{}
		if err := rows.Scan(&sku, &level.available, &level.reserved); err != nil {
			return err
		}
		levels[sku] = level
	}
	if err := results.Close(); err != nil {
		return err
	}

	now := time.Now().UTC().Truncate(time.Microsecond)
	n := len(records)
	orders, states, items := make([]string, 0, n), make([]int16, 0, n), make([]string, 0, n)
	keys, events, kinds := make([]string, 0, n), make([][16]byte, 0, n), make([]string, 0, n)
	traces, values, answers := make([]string, 0, n), make([][]byte, 0, n), make([]answer, 0, n)
	for i := range arrivals {
		if !fresh[i] {
			continue
		}
		state, a, err := p.decide(&arrivals[i], levels, now)
		if err != nil {
			return err
		}
		list, err := json.Marshal(arrivals[i].order.Items)
		if err != nil {
			return err
		}
		orders, states, items = append(orders, a.key), append(states, state), append(items, string(list))
		keys, events, kinds = append(keys, a.key), append(events, a.id), append(kinds, a.kind)
		traces, values, answers = append(traces, a.trace), append(values, a.value), append(answers, a)
	}
	available, reserved := make([]int64, 0, len(levels)), make([]int64, 0, len(levels))
	wanted = wanted[:0]
	for sku, level := range levels {
		wanted, available, reserved = append(wanted, sku), append(available, level.available), append(reserved, level.reserved)
	}
	sent, err := p.settle()
	if err != nil {
		return err
	}

	writes := &pgx.Batch{}
	writes.Queue("UPDATE stock s SET available = v.available, reserved = v.reserved FROM unnest($1::text[], $2::bigint[],"+
		" $3::bigint[]) AS v (sku, available, reserved) WHERE s.sku = v.sku", wanted, available, reserved)
	writes.Queue("INSERT INTO reservations SELECT *, $4::timestamptz FROM unnest($1::uuid[], $2::smallint[], $3::json[])",
		orders, states, items, now.Add(reservationTTL))
	if len(sent) > 0 {
		writes.Queue("DELETE FROM outbox WHERE seq = ANY($1)", sent)
	}
	var seqs []int64
	writes.Queue("INSERT INTO outbox (key, event_id, type, traceparent, value) SELECT * FROM"+
		" unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::bytea[]) RETURNING seq", keys, events, kinds, traces, values).
		Query(func(rows pgx.Rows) (err error) {
			seqs, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		})
	writes.Queue("COMMIT")
	if err := p.db.SendBatch(ctx, writes).Close(); err != nil {
		return err
	}
	p.send(ctx, answers, seqs)
	return nil
}

// one is a record as tutorials handle it: a transaction of its own, a statement at a time, no outbox.
func (p *peer) one(ctx context.Context, r *kgo.Record) error {
	from, err := p.decode(r)
	if err != nil {
		return err
	}
	tx, err := p.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	tag, err := tx.Exec(ctx, "INSERT INTO inbox (id) VALUES ($1) ON CONFLICT DO NOTHING", from.id)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	levels := map[string]*stock{}
	for _, item := range from.order.Items {
		level := &stock{}
		err := tx.QueryRow(ctx, "SELECT available, reserved FROM stock WHERE sku = $1 FOR UPDATE", item.Sku).
			Scan(&level.available, &level.reserved)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		levels[item.Sku] = level
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	state, a, err := p.decide(&from, levels, now)
	if err != nil {
		return err
	}
	for sku, level := range levels {
		if state == held {
			if _, err := tx.Exec(ctx, "UPDATE stock SET available = $2, reserved = $3 WHERE sku = $1",
				sku, level.available, level.reserved); err != nil {
				return err
			}
		}
	}
	list, err := json.Marshal(from.order.Items)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "INSERT INTO reservations VALUES ($1, $2, $3, $4)",
		a.key, state, string(list), now.Add(reservationTTL)); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	p.kafka.Produce(ctx, record(&a), func(_ *kgo.Record, err error) {
		if err != nil && ctx.Err() == nil {
			log.Fatal(err)
		}
	})
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	background := context.Background()
	count := must(strconv.Atoi(os.Getenv("BATCH")))
	p := &peer{
		kafka: must(kgo.NewClient(
			kgo.SeedBrokers(os.Getenv("KAFKA_BOOTSTRAP_SERVERS")),
			kgo.ConsumerGroup(os.Getenv("KAFKA_GROUP_ID")),
			kgo.ConsumeTopics("orders"),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.ProducerLinger(time.Millisecond),
			kgo.AutoCommitMarks(),
			kgo.AutoCommitInterval(200*time.Millisecond),
			kgo.BlockRebalanceOnPoll(),
		)),
		db:           must(pgx.Connect(background, os.Getenv("DATABASE_URL"))),
		placedSchema: schema("OrderPlaced"), reservedSchema: schema("StockReserved"), rejectedSchema: schema("StockRejected"),
	}
	if err := p.resume(background); err != nil {
		log.Fatal(err)
	}
	for ctx.Err() == nil {
		wait, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		fetches := p.kafka.PollRecords(wait, count)
		cancel()
		records := fetches.Records()
		var err error
		switch {
		case len(records) == 0:
			err = p.forget(background)
		case os.Getenv("MODE") == "record":
			for _, record := range records {
				if err = p.one(background, record); err != nil {
					break
				}
			}
		default:
			err = p.batch(background, records)
		}
		if err != nil {
			log.Fatal(err)
		}
		p.kafka.MarkCommitRecords(records...)
		p.kafka.AllowRebalance()
	}
	if err := p.forget(background); err != nil {
		log.Fatal(err)
	}
	p.kafka.Flush(background)
	if err := p.kafka.CommitMarkedOffsets(background); err != nil {
		log.Fatal(err)
	}
	p.kafka.CloseAllowingRebalance()
}
