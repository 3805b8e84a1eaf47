//! The inventory service with rust-rdkafka, tokio-postgres and serde_avro_fast: see ../../README.md for what every peer has to do.
use std::collections::{HashMap, HashSet};
use std::env::var;
use std::error::Error;
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::StreamExt;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Header, Headers, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer};
use rdkafka::{ClientConfig, Message};
use serde::{Deserialize, Serialize};
use serde_avro_fast::ser::SerializerConfig;
use serde_avro_fast::Schema;
use time::macros::format_description;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;

type Parameter<'a> = &'a (dyn ToSql + Sync);
type Outcome<T> = Result<T, Box<dyn Error>>;

const ORDER_PLACED: u32 = 101;
const STOCK_RESERVED: u32 = 501;
const STOCK_REJECTED: u32 = 601;
const TTL: Duration = Duration::from_secs(900);
const HELD: i16 = 1;
const REJECTED: i16 = 2;

#[derive(Debug, Deserialize, Serialize)]
struct Item<'a> {
    sku: &'a str,
    quantity: i32,
    unit_price_minor: i64,
}

#[derive(Deserialize)]
struct OrderPlaced<'a> {
    order_id: &'a str,
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct StockReserved<'a> {
    order_id: &'a str,
    reserved_until: i64,
    reserved_at: i64,
}

#[derive(Serialize)]
struct StockRejected<'a> {
    order_id: &'a str,
    sku: &'a str,
    wanted: i32,
    available: i32,
    rejected_at: i64,
}

struct Arrival<'a> {
    id: Uuid,
    trace: &'a str,
    order: OrderPlaced<'a>,
}

#[derive(Clone, Copy, Default)]
struct Stock {
    available: i64,
    reserved: i64,
}

struct Answer<'a> {
    state: i16,
    key: &'a str,
    id: Uuid,
    kind: &'a str,
    trace: &'a str,
    value: Vec<u8>,
}

struct Statements {
    inbox: Statement,
    get: Statement,
    put: Statement,
    reserve: Statement,
    done: Statement,
    outbox: Statement,
    inbox_one: Statement,
    get_one: Statement,
    put_one: Statement,
    reserve_one: Statement,
}

struct Peer {
    producer: FutureProducer,
    placed: Schema,
    reserved: Schema,
    rejected: Schema,
    db: Client,
    sql: Statements,
    sent: Vec<i64>,
    acks: Vec<DeliveryFuture>,
}

fn schema(name: &str) -> Outcome<Schema> {
    Ok(std::fs::read_to_string(format!("{}/{name}.avsc", var("SCHEMAS")?))?.parse()?)
}

fn decode<'a>(message: &'a BorrowedMessage<'_>, schema: &Schema) -> Outcome<Arrival<'a>> {
    let value = message.payload().ok_or("no value")?;
    if value.len() < 5 || value[0] != 0 || value[1..5] != ORDER_PLACED.to_be_bytes() {
        return Err("not an OrderPlaced".into());
    }
    let (mut id, mut trace) = (None, "");
    for header in message.headers().ok_or("no headers")?.iter() {
        match (header.key, header.value) {
            ("ce_id", Some(value)) => id = Some(Uuid::try_parse_ascii(value)?),
            ("traceparent", Some(value)) => trace = std::str::from_utf8(value)?,
            _ => (),
        }
    }
    Ok(Arrival { id: id.ok_or("no ce_id")?, trace, order: serde_avro_fast::from_datum_slice(&value[5..], schema)? })
}

fn encode<T: Serialize>(number: u32, schema: &Schema, event: &T) -> Outcome<Vec<u8>> {
    let mut value = vec![0];
    value.extend_from_slice(&number.to_be_bytes());
    Ok(serde_avro_fast::to_datum(event, value, &mut SerializerConfig::new(schema))?)
}

fn micros(time: OffsetDateTime) -> i64 {
    (time.unix_timestamp_nanos() / 1000) as i64
}

impl Peer {
    /// All items of an order are reserved, or none.
    fn decide<'a>(
        &self,
        arrival: &'a Arrival<'a>,
        levels: &mut HashMap<&'a str, Stock>,
        now: OffsetDateTime,
    ) -> Outcome<Answer<'a>> {
        let order = &arrival.order;
        let answer = |state, kind: &'static str, value| Answer {
            state,
            key: order.order_id,
            id: Uuid::new_v5(&arrival.id, kind.as_bytes()),
            kind,
            trace: arrival.trace,
            value,
        };
        for item in &order.items {
            let available = levels.get(item.sku).copied().unwrap_or_default().available;
            if available < item.quantity.into() {
                let event = StockRejected {
                    order_id: order.order_id,
                    sku: item.sku,
                    wanted: item.quantity,
                    available: available as i32,
                    rejected_at: micros(now),
                };
                return Ok(answer(REJECTED, "weir.StockRejected", encode(STOCK_REJECTED, &self.rejected, &event)?));
            }
        }
        for item in &order.items {
            let stock = levels.entry(item.sku).or_default();
            stock.available -= i64::from(item.quantity);
            stock.reserved += i64::from(item.quantity);
        }
        let event =
            StockReserved { order_id: order.order_id, reserved_until: micros(now + TTL), reserved_at: micros(now) };
        Ok(answer(HELD, "weir.StockReserved", encode(STOCK_RESERVED, &self.reserved, &event)?))
    }

    async fn produce(&self, answer: &Answer<'_>) -> Outcome<DeliveryFuture> {
        let time = OffsetDateTime::now_utc()
            .format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"))?;
        let id = answer.id.to_string();
        let mut headers = OwnedHeaders::new_with_capacity(8);
        for (key, value) in [
            ("ce_specversion", "1.0"),
            ("ce_id", &id),
            ("ce_source", "/weir/inventory"),
            ("ce_type", answer.kind),
            ("ce_time", &time),
            ("ce_subject", answer.key),
            ("content-type", "application/avro"),
            ("traceparent", answer.trace),
        ] {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record = FutureRecord::to("inventory").key(answer.key).payload(&answer.value).headers(headers);
        loop {
            match self.producer.send_result(record) {
                Ok(ack) => return Ok(ack),
                Err((error, back)) if error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull) => {
                    record = back;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// What is in the outbox was acknowledged.
    async fn settle(&mut self) -> Outcome<Vec<i64>> {
        for ack in try_join_all(self.acks.drain(..)).await? {
            ack.map_err(|(error, _)| error)?;
        }
        Ok(std::mem::take(&mut self.sent))
    }

    async fn forget(&mut self) -> Outcome<()> {
        let sent = self.settle().await?;
        if !sent.is_empty() {
            self.db.execute(&self.sql.done, &[&sent]).await?;
        }
        Ok(())
    }

    /// What a crash has left in the outbox.
    async fn resume(&mut self) -> Outcome<()> {
        let left = self
            .db
            .query("SELECT seq, key, event_id, type, traceparent, value FROM outbox ORDER BY seq", &[])
            .await?;
        for row in &left {
            let answer = Answer {
                state: HELD,
                key: row.get(1),
                id: row.get(2),
                kind: row.get(3),
                trace: row.get(4),
                value: row.get(5),
            };
            self.acks.push(self.produce(&answer).await?);
            self.sent.push(row.get(0));
        }
        self.forget().await
    }

    /// One transaction for all, in two round trips: what is awaited together goes out together.
    async fn batch(&mut self, messages: &[BorrowedMessage<'_>]) -> Outcome<()> {
        let arrivals = messages.iter().map(|each| decode(each, &self.placed)).collect::<Outcome<Vec<_>>>()?;
        let ids: Vec<Uuid> = arrivals.iter().map(|each| each.id).collect();
        let skus: Vec<&str> = arrivals
            .iter()
            .flat_map(|each| each.order.items.iter().map(|item| item.sku))
            .collect::<HashSet<_>>()
            .into_iter()
            .collect();
        let (noted, wanted): ([Parameter; 1], [Parameter; 1]) = ([&ids], [&skus]);
        let (_, inbox, stock) = tokio::try_join!(
            self.db.batch_execute("BEGIN"),
            self.db.query(&self.sql.inbox, &noted),
            self.db.query(&self.sql.get, &wanted),
        )?;
        let mut fresh: HashSet<Uuid> = inbox.iter().map(|row| row.get(0)).collect();
        let mut levels: HashMap<&str, Stock> =
            stock.iter().map(|row| (row.get(0), Stock { available: row.get(1), reserved: row.get(2) })).collect();

        let now = OffsetDateTime::now_utc();
        let (mut answers, mut orders, mut items) = (Vec::new(), Vec::new(), Vec::new());
        for arrival in &arrivals {
            if fresh.remove(&arrival.id) {
                answers.push(self.decide(arrival, &mut levels, now)?);
                orders.push(Uuid::try_parse(arrival.order.order_id)?);
                items.push(Json(&arrival.order.items));
            }
        }
        let changed: Vec<&str> = levels.keys().copied().collect();
        let available: Vec<i64> = levels.values().map(|each| each.available).collect();
        let reserved: Vec<i64> = levels.values().map(|each| each.reserved).collect();
        let states: Vec<i16> = answers.iter().map(|each| each.state).collect();
        let keys: Vec<&str> = answers.iter().map(|each| each.key).collect();
        let events: Vec<Uuid> = answers.iter().map(|each| each.id).collect();
        let kinds: Vec<&str> = answers.iter().map(|each| each.kind).collect();
        let traces: Vec<&str> = answers.iter().map(|each| each.trace).collect();
        let values: Vec<&[u8]> = answers.iter().map(|each| &each.value[..]).collect();
        let until = now + TTL;
        let sent = self.settle().await?;
        let done = async {
            match &sent[..] {
                [] => Ok(0),
                _ => self.db.execute(&self.sql.done, &[&sent]).await,
            }
        };
        let put: [Parameter; 3] = [&changed, &available, &reserved];
        let reserve: [Parameter; 4] = [&orders, &states, &items, &until];
        let outbox: [Parameter; 5] = [&keys, &events, &kinds, &traces, &values];
        let (_, _, _, outbox, _) = tokio::try_join!(
            self.db.execute(&self.sql.put, &put),
            self.db.execute(&self.sql.reserve, &reserve),
            done,
            self.db.query(&self.sql.outbox, &outbox),
            self.db.batch_execute("COMMIT"),
        )?;
        for answer in &answers {
            let ack = self.produce(answer).await?;
            self.acks.push(ack);
        }
        self.sent = outbox.iter().map(|row| row.get(0)).collect();
        Ok(())
    }

    /// A record as tutorials handle it: a transaction of its own, a statement at a time, no outbox.
    async fn one(&mut self, message: &BorrowedMessage<'_>) -> Outcome<()> {
        let arrival = decode(message, &self.placed)?;
        self.db.batch_execute("BEGIN").await?;
        if self.db.execute(&self.sql.inbox_one, &[&arrival.id]).await? == 0 {
            self.db.batch_execute("COMMIT").await?;
            return Ok(());
        }
        let mut levels = HashMap::new();
        for item in &arrival.order.items {
            if let Some(row) = self.db.query_opt(&self.sql.get_one, &[&item.sku]).await? {
                levels.insert(item.sku, Stock { available: row.get(0), reserved: row.get(1) });
            }
        }
        let now = OffsetDateTime::now_utc();
        let answer = self.decide(&arrival, &mut levels, now)?;
        if answer.state == HELD {
            for (sku, stock) in &levels {
                self.db.execute(&self.sql.put_one, &[sku, &stock.available, &stock.reserved]).await?;
            }
        }
        let order = Uuid::try_parse(arrival.order.order_id)?;
        let items = Json(&arrival.order.items);
        self.db.execute(&self.sql.reserve_one, &[&order, &answer.state, &items, &(now + TTL)]).await?;
        self.db.batch_execute("COMMIT").await?;
        self.produce(&answer).await?;
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let (db, connection) = tokio_postgres::connect(&var("DATABASE_URL")?, NoTls).await?;
    tokio::spawn(connection);
    let sql = Statements {
        inbox: db.prepare("INSERT INTO inbox (id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING id").await?,
        get: db
            .prepare("SELECT sku, available, reserved FROM stock WHERE sku = ANY($1) ORDER BY sku FOR UPDATE")
            .await?,
        put: db
            .prepare(
                "UPDATE stock s SET available = v.available, reserved = v.reserved FROM unnest($1::text[], $2::bigint[], \
                 $3::bigint[]) AS v (sku, available, reserved) WHERE s.sku = v.sku",
            )
            .await?,
        reserve: db
            .prepare(
                "INSERT INTO reservations SELECT *, $4::timestamptz FROM unnest($1::uuid[], $2::smallint[], $3::json[])",
            )
            .await?,
        done: db.prepare("DELETE FROM outbox WHERE seq = ANY($1)").await?,
        outbox: db
            .prepare(
                "INSERT INTO outbox (key, event_id, type, traceparent, value) SELECT * FROM unnest($1::text[], \
                 $2::uuid[], $3::text[], $4::text[], $5::bytea[]) RETURNING seq",
            )
            .await?,
        inbox_one: db.prepare("INSERT INTO inbox (id) VALUES ($1) ON CONFLICT DO NOTHING").await?,
        get_one: db.prepare("SELECT available, reserved FROM stock WHERE sku = $1 FOR UPDATE").await?,
        put_one: db.prepare("UPDATE stock SET available = $2, reserved = $3 WHERE sku = $1").await?,
        reserve_one: db.prepare("INSERT INTO reservations VALUES ($1, $2, $3, $4)").await?,
    };
    let bootstrap = var("KAFKA_BOOTSTRAP_SERVERS")?;
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &bootstrap)
        .set("group.id", var("KAFKA_GROUP_ID")?)
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("enable.auto.offset.store", "false")
        .set("auto.commit.interval.ms", "200")
        .set("fetch.wait.max.ms", "100")
        .create()?;
    let producer = ClientConfig::new()
        .set("bootstrap.servers", &bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "1")
        .set("batch.size", "524288")
        .create()?;
    let mut peer = Peer {
        producer,
        placed: schema("OrderPlaced")?,
        reserved: schema("StockReserved")?,
        rejected: schema("StockRejected")?,
        db,
        sql,
        sent: Vec::new(),
        acks: Vec::new(),
    };
    peer.resume().await?;
    consumer.subscribe(&["orders"])?;
    let record = var("MODE")? == "record";
    let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut chunks = consumer.stream().ready_chunks(if record { 1 } else { var("BATCH")?.parse()? });
    loop {
        let chunk = tokio::select! {
            chunk = chunks.next() => chunk.unwrap_or_default(),
            _ = tokio::time::sleep(Duration::from_millis(100)) => Vec::new(),
            _ = ended.recv() => break,
        };
        let messages = chunk.into_iter().collect::<Result<Vec<_>, _>>()?;
        match &messages[..] {
            [] => peer.forget().await?,
            [message] if record => peer.one(message).await?,
            _ => peer.batch(&messages).await?,
        }
        for message in &messages {
            consumer.store_offset_from_message(message)?;
        }
    }
    drop(chunks);
    peer.forget().await?;
    peer.producer.flush(Duration::from_secs(10))?;
    Ok(()) // the consumer commits as it is dropped
}
