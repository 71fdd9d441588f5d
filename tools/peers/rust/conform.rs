//! The driver of the Rust peer for tools/conform: a JSON line is a request, and one is its answer.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{json, Value};
use zbus_events::{
    default_root, is_bus_name, parse_sentinel, Bus, Data, Decoder, Error, Event, FileName, Options, Overflow, Pattern,
    Payload, Selection, Subscription,
};

type Answer = Result<Value, Failure>;

/// The answer to a request that fails.
struct Failure(Value);

impl Failure {
    fn new(kind: &str, message: impl ToString, retryable: bool) -> Self {
        Failure(json!({"error": {"kind": kind, "message": message.to_string(), "retryable": retryable}}))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(&format!("{:?}", error.kind), error.message, error.retryable)
    }
}

fn wrong(message: impl ToString) -> Failure {
    Failure::new("Invalid", message, false)
}

type Verb = fn(&mut Driver, &Value) -> Answer;

const VERBS: [(&str, Verb); 19] = [
    ("hello", hello),
    ("open", Driver::open),
    ("subscribe", Driver::subscribe),
    ("receive", Driver::receive),
    ("slow", Driver::receive),
    ("busy", busy),
    ("send", Driver::send),
    ("burst", Driver::burst),
    ("stream", Driver::stream),
    ("joins", Driver::joins),
    ("churn", Driver::churn),
    ("close", Driver::close),
    ("speed", Driver::speed),
    ("echo", Driver::echo),
    ("ping", Driver::ping),
    ("patterns", patterns),
    ("decode", decode),
    ("encode", encode),
    ("names", names),
];

fn main() -> io::Result<()> {
    let mut driver = Driver::default();
    for line in io::stdin().lock().lines() {
        let said = answer(&mut driver, &line?).unwrap_or_else(|Failure(said)| said);
        let mut out = io::stdout().lock();
        writeln!(out, "{said}")?;
        out.flush()?;
    }
    Ok(()) // dropping the driver closes the bus
}

fn answer(driver: &mut Driver, line: &str) -> Answer {
    let request: Value = serde_json::from_str(line).map_err(wrong)?;
    let name: &str = request.field("verb").unwrap_or_default();
    let unknown = || Failure(json!({"unsupported": format!("there is no verb {name}")}));
    let (_, verb) = VERBS.iter().find(|(own, _)| *own == name).ok_or_else(unknown)?;
    let mut said = verb(driver, &request)?;
    said["ok"] = json!(true);
    Ok(said)
}

/// The fields of a request, or of a row of it.
trait Fields {
    fn field<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T>;

    /// A text that may have come in hex; empty if it is missing. A Rust text is UTF-8, so nobody could send another.
    fn text(&self, name: &str) -> Result<String, Failure> {
        match self.field(&format!("{name}_hex")) {
            Some(hex) => String::from_utf8(unhex(hex)).map_err(wrong),
            None => Ok(self.field(name).unwrap_or_default()),
        }
    }

    fn count(&self) -> u64 {
        self.field("count").unwrap_or(0)
    }

    fn pause(&self, name: &str) -> Duration {
        Duration::from_secs_f64(self.field(name).unwrap_or(0.0))
    }

    /// System, kind and path of what to send.
    fn topic(&self) -> Result<(String, String, String), Failure> {
        let path = self.text("path")?;
        Ok((self.text("system")?, self.text("kind")?, if path.is_empty() { "/conform".into() } else { path }))
    }

    /// The data as a user would have it, in JSON.
    fn data(&self) -> Answer {
        let Some(text) = self.field("json") else { return Ok(Value::Null) };
        serde_json::from_str(text).or_else(|_| deep(text)).map_err(wrong)
    }

    /// Answers each row.
    fn each<T>(&self, name: &str, answer: impl FnMut(&Value) -> T) -> Vec<T>;
}

impl Fields for Value {
    fn field<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        T::deserialize(self.get(name)?).ok()
    }

    fn each<T>(&self, name: &str, answer: impl FnMut(&Value) -> T) -> Vec<T> {
        self[name].as_array().into_iter().flatten().map(answer).collect()
    }
}

/// Parses what is deeper than serde_json takes by default, up to a depth at which the stack is large enough.
fn deep(text: &str) -> serde_json::Result<Value> {
    let mut parser = serde_json::Deserializer::from_str(text);
    if text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() < 5000 {
        parser.disable_recursion_limit();
    }
    let value = Value::deserialize(&mut parser)?;
    parser.end()?;
    Ok(value)
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).unwrap_or(0) as u8;
    text.as_bytes().chunks(2).map(|pair| pair.iter().fold(0, |byte, &c| byte << 4 | digit(c))).collect()
}

fn hex(raw: &[u8]) -> String {
    raw.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn told(evt: &Event) -> Value {
    let mut said = json!({
        "system": evt.system(), "kind": evt.kind(), "path": evt.path(), "origin": evt.origin(), "seq": evt.seq(),
    });
    match evt.data() {
        Data::None => {}
        Data::Json(text) => said["json"] = json!(text),
        Data::Bytes(raw) => said["hex"] = json!(hex(raw)),
    }
    if let Some(since) = evt.time().and_then(|time| time.duration_since(UNIX_EPOCH).ok()) {
        said["time"] = json!(since.as_micros() as u64);
    }
    said
}

#[link(name = "zmq")]
extern "C" {
    fn zmq_version(major: *mut i32, minor: *mut i32, patch: *mut i32);
}

fn hello(_: &mut Driver, _: &Value) -> Answer {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: all three are written to.
    unsafe { zmq_version(&mut major, &mut minor, &mut patch) };
    let library = format!("libzmq {major}.{minor}.{patch}");
    Ok(json!({"language": "rust", "library": library, "pid": std::process::id()}))
}

fn busy(_: &mut Driver, request: &Value) -> Answer {
    std::thread::sleep(request.pause("seconds"));
    Ok(json!({}))
}

/// CLOCK_MONOTONIC, as the kit takes it.
fn micros() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is written to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// A subscription, and whether it has ended.
struct Received {
    sub: Subscription,
    open: bool,
}

impl Received {
    fn take(&mut self, timeout: Duration) -> Option<Event> {
        match self.sub.receive_timeout(timeout) {
            Ok(evt) => Some(evt),
            Err(error) => {
                self.open &= error.retryable;
                None
            }
        }
    }

    /// Visits events until there are `most`, or `until` received and lost, or nothing goes on.
    fn each(&mut self, most: u64, until: u64, timeout: Duration, mut visit: impl FnMut(Event)) {
        let look = if until < u64::MAX { Duration::from_millis(50).min(timeout) } else { timeout };
        let progress = |sub: &Subscription| sub.received() + sub.lost() + sub.malformed();
        let (mut seen, mut at, mut got) = (progress(&self.sub), Instant::now(), 0);
        while got < most && self.sub.received() + self.sub.lost() < until && self.open {
            if let Some(evt) = self.take(look) {
                got += 1;
                visit(evt);
            }
            let now = progress(&self.sub);
            if now != seen {
                (seen, at) = (now, Instant::now());
            } else if at.elapsed() >= timeout {
                return;
            }
        }
    }

    fn totals(&self, mut said: Value) -> Value {
        let (received, lost, malformed) = (self.sub.received(), self.sub.lost(), self.sub.malformed());
        for (field, value) in [("received", received), ("lost", lost), ("malformed", malformed)] {
            said[field] = json!(value);
        }
        said["open"] = json!(self.open);
        said
    }
}

/// What the events of a burst were, without keeping them.
#[derive(Default)]
struct Tally {
    first: u64,
    last: u64,
    disordered: bool,
    seen: HashMap<(String, String, String), u64>,
}

impl Tally {
    fn add(&mut self, evt: &Event) {
        let stream = (evt.origin().to_owned(), evt.system().to_owned(), evt.kind().to_owned());
        let before = self.seen.insert(stream, evt.seq()).unwrap_or(0);
        self.disordered |= evt.seq() <= before;
        self.last = evt.json::<Value>().ok().and_then(|data| data.get("n")?.as_u64()).unwrap_or(0);
        if self.first == 0 {
            self.first = self.last;
        }
    }
}

#[derive(Default)]
struct Driver {
    subscriptions: HashMap<String, Received>,
    bus: Option<Bus>,
    options: Options,
}

impl Driver {
    fn bus(&self) -> Result<&Bus, Failure> {
        self.bus.as_ref().ok_or_else(|| Failure::new("Canceled", "no bus is open: open one first", false))
    }

    fn named(&mut self, request: &Value) -> Result<&mut Received, Failure> {
        let name = request.text("name")?;
        self.subscriptions.get_mut(&name).ok_or_else(|| wrong(format!("there is no subscription {name:?}")))
    }

    /// The bus and a subscription.
    fn both(&self, request: &Value) -> Result<(&Bus, &Subscription), Failure> {
        let name = request.text("name")?;
        let ours = self.subscriptions.get(&name).ok_or_else(|| wrong(format!("there is no subscription {name:?}")))?;
        Ok((self.bus()?, &ours.sub))
    }

    fn open(&mut self, request: &Value) -> Answer {
        let default = Options::default();
        let seconds = |field, otherwise| request.field(field).map_or(otherwise, Duration::from_secs_f64);
        self.options = Options {
            bus: request.field("bus").unwrap_or(default.bus),
            capacity: request.field("capacity").unwrap_or(default.capacity),
            max_event_bytes: request.field("max_event_bytes").unwrap_or(default.max_event_bytes),
            linger: seconds("linger", default.linger),
            send_timeout: seconds("send_timeout", default.send_timeout),
            ..default
        };
        self.bus = Some(self.options.clone().open()?);
        Ok(json!({}))
    }

    fn join(&self, request: &Value) -> Result<Subscription, Failure> {
        let (system, kind) = (request.text("system")?, request.text("kind")?);
        let overflow = if request.text("overflow")? == "block" { Overflow::Block } else { Overflow::Drop };
        let capacity = request.field("capacity");
        Ok(self.bus()?.subscribe_with(&Selection { system: &system, kind: &kind, overflow, capacity })?)
    }

    fn subscribe(&mut self, request: &Value) -> Answer {
        let sub = self.join(request)?;
        self.subscriptions.insert(request.text("name")?, Received { sub, open: true });
        Ok(json!({}))
    }

    fn close(&mut self, request: &Value) -> Answer {
        match request.get("name") {
            Some(_) => self.named(request)?.sub.close(),
            None => self.bus = None,
        }
        Ok(json!({}))
    }

    /// Serves `slow` too: with a pause after each event, and a tally.
    fn receive(&mut self, request: &Value) -> Answer {
        let (most, until) = (request.field("count").unwrap_or(u64::MAX), request.field("until").unwrap_or(u64::MAX));
        let (timeout, pause) = (request.pause("timeout"), request.pause("pause"));
        let tallied = request.field("tally").unwrap_or(false) || request.text("verb")? == "slow";
        let ours = self.named(request)?;
        let (mut events, mut tally) = (Vec::new(), Tally::default());
        ours.each(most, until, timeout, |evt| {
            if tallied {
                tally.add(&evt);
            } else {
                events.push(told(&evt));
            }
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
        });
        Ok(ours.totals(if tallied {
            json!({"first": tally.first, "last": tally.last, "ordered": !tally.disordered})
        } else {
            json!({ "events": events })
        }))
    }

    fn churn(&mut self, request: &Value) -> Answer {
        let mut rounds = Vec::new();
        for _ in 0..request.count() {
            let sub = self.join(request)?;
            let joined = micros();
            let evt = sub.receive_timeout(request.pause("timeout"))?;
            let data: Value = evt.json()?;
            rounds.push(json!({"joined": joined, "n": data["n"], "prev": data["prev"], "lost": sub.lost()}));
        }
        Ok(json!({ "rounds": rounds }))
    }

    fn send(&mut self, request: &Value) -> Answer {
        let bus = self.bus()?;
        let (system, kind, path) = (request.text("system")?, request.text("kind")?, request.text("path")?);
        match request.field("hex") {
            Some(raw) => bus.send_bytes(&system, &kind, &path, &unhex(raw))?,
            None => bus.send(&system, &kind, &path, &request.data()?)?,
        }
        Ok(json!({}))
    }

    fn burst(&mut self, request: &Value) -> Answer {
        let bus = self.bus()?;
        let (system, kind, path) = request.topic()?;
        let (count, batch) = (request.count(), request.field("batch").unwrap_or(0));
        let (pad, interval) = ("x".repeat(request.field("bytes").unwrap_or(0)), request.pause("interval"));
        let (began, mut next) = (Instant::now(), 1);
        let data = |n| if pad.is_empty() { Counted { n, pad: None } } else { Counted { n, pad: Some(&pad) } };
        while next <= count {
            if batch == 0 {
                bus.send(&system, &kind, &path, &data(next))?;
            } else {
                let items: Vec<_> = (next..=count.min(next + batch - 1)).map(data).collect();
                bus.send_many(&system, &kind, items.iter().map(|item| (path.as_str(), item)))?;
            }
            next += batch.max(1);
            if !interval.is_zero() {
                std::thread::sleep(interval);
            }
        }
        Ok(json!({"sent": count, "seconds": began.elapsed().as_secs_f64()}))
    }

    fn stream(&mut self, request: &Value) -> Answer {
        let bus = self.bus()?;
        let (system, kind, path) = request.topic()?;
        let (until, mut before) = (request.text("until")?, 0);
        for n in 1u64.. {
            let now = micros();
            bus.send(&system, &kind, &path, &json!({"n": n, "at": now, "prev": before}))?;
            before = now;
            if Path::new(&until).exists() {
                return Ok(json!({ "sent": n }));
            }
            std::thread::sleep(request.pause("interval"));
        }
        Ok(json!({}))
    }

    fn joins(&mut self, request: &Value) -> Answer {
        let (system, kind, path) = request.topic()?;
        let mut took = Vec::new();
        for n in 1..=request.count() {
            let began = Instant::now();
            let bus = self.options.clone().open()?;
            bus.send(&system, &kind, &path, &Counted { n, pad: None })?;
            took.push(began.elapsed().as_secs_f64());
        }
        Ok(json!({ "seconds": took }))
    }

    fn speed(&mut self, request: &Value) -> Answer {
        if request.text("role")? == "send" {
            return self.burst(request);
        }
        let count = request.count() as usize;
        let mut events = &self.named(request)?.sub;
        events.next().transpose()?;
        let began = Instant::now();
        for evt in events.take(count.saturating_sub(1)) {
            evt?;
        }
        Ok(json!({ "seconds": began.elapsed().as_secs_f64() }))
    }

    fn echo(&mut self, request: &Value) -> Answer {
        let (system, kind, _) = request.topic()?;
        let (bus, sub) = self.both(request)?;
        for evt in sub.take(request.count() as usize) {
            let evt = evt?;
            let data: &serde_json::value::RawValue = evt.json()?;
            bus.send(&system, &kind, evt.path(), data)?;
        }
        Ok(json!({}))
    }

    fn ping(&mut self, request: &Value) -> Answer {
        let (system, kind, path) = request.topic()?;
        let ((bus, sub), mut took) = (self.both(request)?, Vec::new());
        for n in 0..request.count() {
            let began = Instant::now();
            bus.send(&system, &kind, &path, &Counted { n, pad: None })?;
            sub.receive()?;
            took.push(began.elapsed().as_nanos() as f64 / 1000.0);
        }
        Ok(json!({ "micros": took }))
    }
}

/// The data of a burst.
struct Counted<'a> {
    n: u64,
    pad: Option<&'a str>,
}

impl serde::Serialize for Counted<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("n", &self.n)?;
        if let Some(pad) = self.pad {
            map.serialize_entry("pad", pad)?;
        }
        map.end()
    }
}

// The rules, without a bus

fn patterns(_: &mut Driver, request: &Value) -> Answer {
    let parse = |row: &Value, field| row.field::<&str>(field).unwrap_or_default().parse::<Pattern>();
    let matches = request.each("cases", |row| Some(parse(row, "pattern").ok()?.matches(row.field("name")?)));
    let prefixes = request.each("prefixes", |row| {
        let kind = match row.field("kind").unwrap_or_default() {
            "" => None,
            kind => Some(kind.parse().ok()?),
        };
        let prefixes = Pattern::prefixes(&parse(row, "system").ok()?, kind.as_ref());
        Some(prefixes.iter().map(|prefix| hex(prefix)).collect::<Vec<_>>())
    });
    let refused = request.each("invalid", |row| parse(row, "pattern").is_err());
    Ok(json!({"matches": matches, "prefixes": prefixes, "refused": refused}))
}

fn raw(row: &Value) -> Vec<u8> {
    unhex(row.field("hex").unwrap_or_default())
}

fn decode(_: &mut Driver, request: &Value) -> Answer {
    let kind = request.text("kind")?;
    let kind = if kind.is_empty() { None } else { Some(kind.parse()?) };
    let (announced, joined) = (request.field("announced"), request.field("joined"));
    let limit = request.field("limit").unwrap_or(65_536);
    let mut decoder = Decoder::new(request.text("system")?.parse()?, kind, announced, joined, limit);
    let rows = request.each("frames", |row| {
        decoder.decode(&raw(row));
        let gaps: Vec<_> = decoder.gaps.iter().map(|gap| (gap.first, gap.last)).collect();
        let events: Vec<_> = decoder.events.iter().map(told).collect();
        let stamp = &decoder.stamp;
        json!({
            "events": events, "gaps": gaps, "lost": decoder.lost, "malformed": decoder.malformed,
            "born": stamp.born, "settled": stamp.settled, "first": stamp.first,
        })
    });
    Ok(json!({ "frames": rows }))
}

fn encode(_: &mut Driver, request: &Value) -> Answer {
    let (system, kind, path) = (request.text("system")?, request.text("kind")?, request.text("path")?);
    let payload = if request.get("items").is_some() {
        let items = request.each("items", |row| Ok((row.text("path")?, row.data()?)));
        let items = items.into_iter().collect::<Result<Vec<_>, Failure>>()?;
        Payload::batch(items.iter().map(|(path, data)| (path.as_str(), data)))?
    } else if request.get("hex").is_some() {
        Payload::bytes(&path, &raw(request))?
    } else {
        Payload::json(&path, &request.data()?)?
    };
    Ok(json!({ "hex": hex(&payload.encode(&system, &kind, &request.text("stamp")?)?) }))
}

fn names(_: &mut Driver, request: &Value) -> Answer {
    let file = |row: &Value| {
        Some(match FileName::parse(&raw(row))? {
            FileName::Entry { id, epoch, overflow } => json!({"id": id, "epoch": epoch, "overflow": overflow.name()}),
            FileName::Socket(_) => json!({"is": "socket"}),
            FileName::Member(_) => json!({"is": "member"}),
            FileName::New(_) => json!({"is": "new"}),
            FileName::Token => json!({"is": "token"}),
        })
    };
    let sentinel = |row: &Value| {
        let (id, epoch) = parse_sentinel(&raw(row))?;
        Some(json!({"ingress": id, "epoch": epoch}))
    };
    let buses = request.each("buses", |row| is_bus_name(row.field("name").unwrap_or_default()));
    let roots = request.each("roots", |row| root(row.field("env").unwrap_or_default()));
    let (files, sentinels) = (request.each("files", file), request.each("sentinels", sentinel));
    Ok(json!({"files": files, "sentinels": sentinels, "buses": buses, "roots": roots}))
}

fn root(environment: HashMap<&str, &str>) -> String {
    let variables = ["ZBUS_DIR", "XDG_RUNTIME_DIR", "TMPDIR", "TMP", "TEMP", "HOME"];
    let before = variables.map(|name| (name, std::env::var_os(name)));
    variables.iter().for_each(|name| std::env::remove_var(name));
    for (name, value) in environment {
        std::env::set_var(name, value);
    }
    let root = default_root().to_string_lossy().into_owned();
    for (name, value) in before {
        match value {
            Some(value) => std::env::set_var(name, value),
            None => std::env::remove_var(name),
        }
    }
    root
}
