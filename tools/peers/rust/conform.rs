//! The driver of the Rust peer for tools/conform: a JSON line is a request, and one is its answer.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::{json, Map, Value};
use zbus_events::{
    default_root, is_bus_name, parse_sentinel, Bus, Data, Decoder, Error, Event, FileName, Options, Overflow, Pattern,
    Payload, Selection, Subscription,
};

type Answer = Result<Value, Failure>;

/// Why a request has no answer.
enum Failure {
    Library(Error),
    Other(&'static str, String),
    Unsupported(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Library(error)
    }
}

fn wrong(message: impl ToString) -> Failure {
    Failure::Other("Invalid", message.to_string())
}

fn main() -> io::Result<()> {
    let mut driver = Driver::default();
    for line in io::stdin().lock().lines() {
        let said = answer(&mut driver, &line?);
        let mut out = io::stdout().lock();
        writeln!(out, "{said}")?;
        out.flush()?;
    }
    Ok(()) // dropping the driver closes the bus
}

fn answer(driver: &mut Driver, line: &str) -> Value {
    let told =
        |kind: String, message, retryable| json!({"error": {"kind": kind, "message": message, "retryable": retryable}});
    let request = match serde_json::from_str(line) {
        Ok(fields) => Request(fields),
        Err(error) => return told("Invalid".into(), error.to_string(), false),
    };
    match driver.obey(&request) {
        Ok(mut said) => {
            said["ok"] = json!(true);
            said
        }
        Err(Failure::Library(error)) => told(format!("{:?}", error.kind), error.message, error.retryable),
        Err(Failure::Other(kind, message)) => told(kind.into(), message, false),
        Err(Failure::Unsupported(why)) => json!({ "unsupported": why }),
    }
}

struct Request(Map<String, Value>);

impl Request {
    fn text(&self, field: &str) -> Result<String, Failure> {
        text_of(&self.0, field)
    }

    fn number(&self, field: &str) -> Option<u64> {
        self.0.get(field)?.as_u64()
    }

    fn seconds(&self, field: &str) -> Option<f64> {
        self.0.get(field)?.as_f64()
    }

    fn pause(&self, field: &str) -> Duration {
        Duration::from_secs_f64(self.seconds(field).unwrap_or(0.0))
    }

    fn flag(&self, field: &str) -> bool {
        self.0.get(field).and_then(Value::as_bool).unwrap_or(false)
    }

    fn rows(&self, field: &str) -> impl Iterator<Item = &Map<String, Value>> {
        self.0.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
    }

    /// System, kind and path of what to send.
    fn topic(&self) -> Result<(String, String, String), Failure> {
        let path = self.text("path")?;
        Ok((self.text("system")?, self.text("kind")?, if path.is_empty() { "/conform".into() } else { path }))
    }
}

/// A field that may have come in hex; a missing one is empty. A Rust text is UTF-8, so nobody could send another.
fn text_of(fields: &Map<String, Value>, field: &str) -> Result<String, Failure> {
    match fields.get(&format!("{field}_hex")).and_then(Value::as_str) {
        Some(hex) => String::from_utf8(unhex(hex)).map_err(wrong),
        None => Ok(fields.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()),
    }
}

/// The data of a request as a user would have it, in JSON.
fn value_of(fields: &Map<String, Value>) -> Result<Value, Failure> {
    let Some(text) = fields.get("json").and_then(Value::as_str) else { return Ok(Value::Null) };
    serde_json::from_str(text).or_else(|_| deep(text)).map_err(wrong)
}

/// Parses what is deeper than serde_json takes by default, up to a depth at which the stack is large enough.
fn deep(text: &str) -> serde_json::Result<Value> {
    let mut parser = serde_json::Deserializer::from_str(text);
    if text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() < 5000 {
        parser.disable_recursion_limit();
    }
    let value = serde::Deserialize::deserialize(&mut parser)?;
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

fn libzmq_version() -> String {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: all three are written to.
    unsafe { zmq_version(&mut major, &mut minor, &mut patch) };
    format!("{major}.{minor}.{patch}")
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
    fn obey(&mut self, request: &Request) -> Answer {
        match request.text("verb")?.as_str() {
            "hello" => {
                let library = format!("libzmq {}", libzmq_version());
                Ok(json!({"language": "rust", "library": library, "pid": std::process::id()}))
            }
            "open" => self.open(request),
            "subscribe" => {
                let sub = self.subscribe(request)?;
                self.subscriptions.insert(request.text("name")?, Received { sub, open: true });
                Ok(json!({}))
            }
            "receive" => self.receive(request, request.flag("tally")),
            "slow" => self.receive(request, true),
            "busy" => {
                std::thread::sleep(request.pause("seconds"));
                Ok(json!({}))
            }
            "send" => self.send(request),
            "burst" => self.burst(request),
            "stream" => self.stream(request),
            "joins" => self.joins(request),
            "churn" => self.churn(request),
            "close" => self.close(request),
            "speed" => self.speed(request),
            "echo" => self.echo(request),
            "ping" => self.ping(request),
            "patterns" => Ok(patterns(request)),
            "decode" => decode(request),
            "encode" => encoded(request),
            "names" => Ok(names(request)),
            verb => Err(Failure::Unsupported(format!("there is no verb {verb}"))),
        }
    }

    fn bus(&self) -> Result<&Bus, Failure> {
        let closed = || Failure::Other("Canceled", "no bus is open: open one first".into());
        self.bus.as_ref().ok_or_else(closed)
    }

    fn named(&mut self, request: &Request) -> Result<&mut Received, Failure> {
        let name = request.text("name")?;
        self.subscriptions.get_mut(&name).ok_or_else(|| wrong(format!("there is no subscription {name:?}")))
    }

    fn open(&mut self, request: &Request) -> Answer {
        let mut options = Options::default();
        if request.0.contains_key("bus") {
            options.bus = request.text("bus")?;
        }
        for (field, value) in [("capacity", &mut options.capacity), ("max_event_bytes", &mut options.max_event_bytes)] {
            *value = request.number(field).map_or(*value, |number| number as usize);
        }
        for (field, value) in [("linger", &mut options.linger), ("send_timeout", &mut options.send_timeout)] {
            *value = request.seconds(field).map_or(*value, Duration::from_secs_f64);
        }
        self.options = options.clone();
        self.bus = Some(options.open()?);
        Ok(json!({}))
    }

    fn subscribe(&self, request: &Request) -> Result<Subscription, Failure> {
        let (system, kind) = (request.text("system")?, request.text("kind")?);
        let overflow = if request.text("overflow")? == "block" { Overflow::Block } else { Overflow::Drop };
        let capacity = request.number("capacity").map(|frames| frames as usize);
        Ok(self.bus()?.subscribe_with(&Selection { system: &system, kind: &kind, overflow, capacity })?)
    }

    fn close(&mut self, request: &Request) -> Answer {
        match request.0.contains_key("name") {
            true => self.named(request)?.sub.close(),
            false => self.bus = None,
        }
        Ok(json!({}))
    }

    /// Serves `slow` too: with a pause after each event.
    fn receive(&mut self, request: &Request, tallied: bool) -> Answer {
        let (most, until) = (request.number("count"), request.number("until"));
        let (timeout, pause) = (request.pause("timeout"), request.pause("pause"));
        let ours = self.named(request)?;
        let (mut events, mut tally) = (Vec::new(), Tally::default());
        ours.each(most.unwrap_or(u64::MAX), until.unwrap_or(u64::MAX), timeout, |evt| {
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

    fn churn(&self, request: &Request) -> Answer {
        let mut rounds = Vec::new();
        for _ in 0..request.number("count").unwrap_or(0) {
            let sub = self.subscribe(request)?;
            let joined = micros();
            let evt = sub.receive_timeout(request.pause("timeout"))?;
            let data: Value = evt.json()?;
            rounds.push(json!({"joined": joined, "n": data["n"], "prev": data["prev"], "lost": sub.lost()}));
        }
        Ok(json!({ "rounds": rounds }))
    }

    fn send(&self, request: &Request) -> Answer {
        let bus = self.bus()?;
        let (system, kind, path) = (request.text("system")?, request.text("kind")?, request.text("path")?);
        match request.0.get("hex").and_then(Value::as_str) {
            Some(raw) => bus.send_bytes(&system, &kind, &path, &unhex(raw))?,
            None => bus.send(&system, &kind, &path, &value_of(&request.0)?)?,
        }
        Ok(json!({}))
    }

    fn burst(&self, request: &Request) -> Answer {
        let bus = self.bus()?;
        let (system, kind, path) = request.topic()?;
        let (count, batch) = (request.number("count").unwrap_or(0), request.number("batch").unwrap_or(0));
        let (pad, interval) = ("x".repeat(request.number("bytes").unwrap_or(0) as usize), request.pause("interval"));
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

    fn stream(&self, request: &Request) -> Answer {
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

    fn joins(&self, request: &Request) -> Answer {
        let (system, kind, path) = request.topic()?;
        let mut took = Vec::new();
        for n in 1..=request.number("count").unwrap_or(0) {
            let began = Instant::now();
            let bus = self.options.clone().open()?;
            bus.send(&system, &kind, &path, &Counted { n, pad: None })?;
            took.push(began.elapsed().as_secs_f64());
        }
        Ok(json!({ "seconds": took }))
    }

    fn speed(&mut self, request: &Request) -> Answer {
        if request.text("role")? == "send" {
            return self.burst(request);
        }
        let count = request.number("count").unwrap_or(0) as usize;
        let mut events = &self.named(request)?.sub;
        events.next().transpose()?;
        let began = Instant::now();
        for evt in events.take(count.saturating_sub(1)) {
            evt?;
        }
        Ok(json!({ "seconds": began.elapsed().as_secs_f64() }))
    }

    fn echo(&mut self, request: &Request) -> Answer {
        let (system, kind, _) = request.topic()?;
        let (name, count) = (request.text("name")?, request.number("count").unwrap_or(0) as usize);
        let (bus, ours) = (self.bus()?, self.subscriptions.get(&name).ok_or_else(|| wrong("no such subscription"))?);
        for evt in (&ours.sub).take(count) {
            let evt = evt?;
            let data: &serde_json::value::RawValue = evt.json()?;
            bus.send(&system, &kind, evt.path(), data)?;
        }
        Ok(json!({}))
    }

    fn ping(&mut self, request: &Request) -> Answer {
        let (system, kind, path) = request.topic()?;
        let (name, mut took) = (request.text("name")?, Vec::new());
        let (bus, ours) = (self.bus()?, self.subscriptions.get(&name).ok_or_else(|| wrong("no such subscription"))?);
        for n in 0..request.number("count").unwrap_or(0) {
            let began = Instant::now();
            bus.send(&system, &kind, &path, &Counted { n, pad: None })?;
            ours.sub.receive()?;
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

fn patterns(request: &Request) -> Value {
    let parse = |row: &Map<String, Value>, field| row[field].as_str().unwrap_or_default().parse::<Pattern>();
    let matches: Vec<_> = request
        .rows("cases")
        .map(|row| parse(row, "pattern").ok().map(|pattern| pattern.matches(row["name"].as_str().unwrap_or_default())))
        .collect();
    let prefixes: Vec<_> = request
        .rows("prefixes")
        .map(|row| {
            let system = parse(row, "system").ok()?;
            let kind = match row.get("kind").and_then(Value::as_str).filter(|kind| !kind.is_empty()) {
                Some(kind) => Some(kind.parse().ok()?),
                None => None,
            };
            Some(Pattern::prefixes(&system, kind.as_ref()).iter().map(|prefix| hex(prefix)).collect::<Vec<_>>())
        })
        .collect();
    let refused: Vec<_> = request.rows("invalid").map(|row| parse(row, "pattern").is_err()).collect();
    json!({"matches": matches, "prefixes": prefixes, "refused": refused})
}

fn decode(request: &Request) -> Answer {
    let kind = request.text("kind")?;
    let kind = if kind.is_empty() { None } else { Some(kind.parse()?) };
    let (announced, joined) = (request.number("announced"), request.number("joined"));
    let limit = request.number("limit").unwrap_or(65_536) as usize;
    let mut decoder = Decoder::new(request.text("system")?.parse()?, kind, announced, joined, limit);
    let mut rows = Vec::new();
    for frame in request.rows("frames") {
        decoder.decode(&unhex(frame["hex"].as_str().unwrap_or_default()));
        let gaps: Vec<_> = decoder.gaps.iter().map(|gap| (gap.first, gap.last)).collect();
        let events: Vec<_> = decoder.events.iter().map(told).collect();
        let stamp = &decoder.stamp;
        rows.push(json!({
            "events": events, "gaps": gaps, "lost": decoder.lost, "malformed": decoder.malformed,
            "born": stamp.born, "settled": stamp.settled, "first": stamp.first,
        }));
    }
    Ok(json!({ "frames": rows }))
}

fn encoded(request: &Request) -> Answer {
    let (system, kind, path) = (request.text("system")?, request.text("kind")?, request.text("path")?);
    let items: Vec<_> =
        request.rows("items").map(|row| Ok((text_of(row, "path")?, value_of(row)?))).collect::<Result<_, Failure>>()?;
    let payload = if request.0.contains_key("items") {
        Payload::batch(items.iter().map(|(path, data)| (path.as_str(), data)))?
    } else if let Some(raw) = request.0.get("hex").and_then(Value::as_str) {
        Payload::bytes(&path, &unhex(raw))?
    } else {
        Payload::json(&path, &value_of(&request.0)?)?
    };
    Ok(json!({ "hex": hex(&payload.encode(&system, &kind, &request.text("stamp")?)?) }))
}

fn names(request: &Request) -> Value {
    let raw = |row: &Map<String, Value>| unhex(row["hex"].as_str().unwrap_or_default());
    let file = |name: &[u8]| match FileName::parse(name)? {
        FileName::Entry { id, epoch, overflow } => {
            let overflow = if overflow == Overflow::Drop { "drop" } else { "block" };
            Some(json!({"id": id, "epoch": epoch, "overflow": overflow}))
        }
        FileName::Socket(_) => Some(json!({"is": "socket"})),
        FileName::Member(_) => Some(json!({"is": "member"})),
        FileName::New(_) => Some(json!({"is": "new"})),
        FileName::Token => Some(json!({"is": "token"})),
    };
    let sentinel = |topic: &[u8]| parse_sentinel(topic).map(|(id, epoch)| json!({"ingress": id, "epoch": epoch}));
    let files: Vec<_> = request.rows("files").map(|row| file(&raw(row))).collect();
    let sentinels: Vec<_> = request.rows("sentinels").map(|row| sentinel(&raw(row))).collect();
    let buses: Vec<_> =
        request.rows("buses").map(|row| is_bus_name(row["name"].as_str().unwrap_or_default())).collect();
    let roots: Vec<_> = request.rows("roots").filter_map(|row| row["env"].as_object()).map(root).collect();
    json!({"files": files, "sentinels": sentinels, "buses": buses, "roots": roots})
}

fn root(environment: &Map<String, Value>) -> String {
    let variables = ["ZBUS_DIR", "XDG_RUNTIME_DIR", "TMPDIR", "TMP", "TEMP", "HOME"];
    let before = variables.map(|name| (name, std::env::var_os(name)));
    variables.iter().for_each(|name| std::env::remove_var(name));
    for (name, value) in environment {
        std::env::set_var(name, value.as_str().unwrap_or_default());
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
