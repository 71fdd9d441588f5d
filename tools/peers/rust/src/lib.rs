//! An event bus between processes on one machine, without a broker.
//!
//! A bus is a directory. Whoever opens the same directory, in whatever language, is on the same bus:
//!
//! ```no_run
//! use serde_json::json;
//!
//! # fn main() -> Result<(), zbus_events::Error> {
//! let bus = zbus_events::Bus::open()?;
//! let sub = bus.subscribe("orders.**")?;
//! bus.send("orders", "order.created", "/orders/1", &json!({"total": 9.5}))?;
//! for evt in &sub {
//!     let evt = evt?;
//!     let order: serde_json::Value = evt.json()?;
//!     println!("{} {} {order}", evt.kind(), evt.path());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Bus::subscribe`] returns once every event that is sent from then on, by any process, will reach the
//! subscription. Events of one process arrive in order. What a full queue had no room for is counted exactly:
//! see [`Event::gaps`] and [`Subscription::lost`]. A [`Bus`] and a [`Subscription`] may be shared by threads.
//!
//! Numbers such as W22 and R20 in comments are clauses of docs/spec/wire.md and docs/spec/roster.md.
#![deny(missing_docs)]

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::mem::{self, ManuallyDrop};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::str;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{mpsc, Arc, Mutex, MutexGuard, Once, OnceLock, RwLock, RwLockReadGuard, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::Serialize;
use serde_json::value::RawValue;
use serde_json::{json, Value};

// ------------------------------------------------------------------------------------------------------------
// Events and errors

/// The data of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data<'a> {
    /// No data.
    None,
    /// JSON text: RFC 8259, checked when it arrived.
    Json(&'a str),
    /// Raw bytes.
    Bytes(&'a [u8]),
}

/// One event as it was received.
#[derive(Debug, Clone)]
pub struct Event {
    /// What was lost of the subscription's events since the event before this one.
    pub gaps: Vec<Gap>,
    topic: Topic,
    path: String,
    frame: Arc<[u8]>,
    data: Range<usize>,
    origin: Origin,
    seq: u64,
    time: Option<u64>,
    ends_frame: bool,
}

impl Event {
    /// The system that the event is about.
    pub fn system(&self) -> &str {
        self.topic.system()
    }

    /// The kind of event.
    pub fn kind(&self) -> &str {
        self.topic.kind()
    }

    /// The path of what the event is about.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The data: JSON text, raw bytes, or none.
    pub fn data(&self) -> Data<'_> {
        match &self.frame[self.data.clone()] {
            [] => Data::None,
            [0, raw @ ..] => Data::Bytes(raw),
            text => Data::Json(str::from_utf8(text).expect("the decoder has checked it")),
        }
    }

    /// Deserializes the JSON data; no data counts as null.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the data is bytes, or does not fit the type. A retry fails as well.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        let text = match self.data() {
            Data::None => "null",
            Data::Json(text) => text,
            Data::Bytes(_) => return Err(Error::invalid("the data of this event is bytes, not JSON: use Event::data")),
        };
        let mut parser = serde_json::Deserializer::from_str(text);
        parser.disable_recursion_limit(); // it is at most 1,024 deep
        T::deserialize(&mut parser).map_err(|cause| {
            Error::invalid(format!("the data of {} {} does not fit the type asked for", self.system(), self.kind()))
                .because(cause)
        })
    }

    /// Who sent it: an id of the sender's bus object, empty if untold.
    pub fn origin(&self) -> &str {
        origin_text(&self.origin)
    }

    /// Its number among the events of this origin, system and kind, from 1; 0 if untold.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When it was sent, if told.
    pub fn time(&self) -> Option<SystemTime> {
        self.time.and_then(|micros| UNIX_EPOCH.checked_add(Duration::from_micros(micros)))
    }
}

/// Events that were sent to a subscription and lost: numbers `first` to `last` of one sender and topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The number of the first event that was lost.
    pub first: u64,
    /// The number of the last event that was lost.
    pub last: u64,
    topic: Topic,
    origin: Origin,
}

impl Gap {
    /// The system of the lost events.
    pub fn system(&self) -> &str {
        self.topic.system()
    }

    /// Their kind.
    pub fn kind(&self) -> &str {
        self.topic.kind()
    }

    /// Who sent them.
    pub fn origin(&self) -> &str {
        origin_text(&self.origin)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Whether it goes on where another gap ends.
    fn continues(&self, other: &Gap) -> bool {
        other.last + 1 == self.first && other.origin == self.origin && other.topic == self.topic
    }
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call is wrong. Nothing was sent.
    Invalid,
    /// Time ran out. Nothing was sent, and nothing was lost.
    Timeout,
    /// The bus or the subscription is closed, or the process has forked.
    Canceled,
    /// The directory of the bus is not safe to use, or not this user's.
    PermissionDenied,
    /// The operating system refused something.
    Unavailable,
}

/// Every error of this crate. Its message says what is wrong and what to do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Error {
    /// What went wrong.
    pub kind: ErrorKind,
    /// A sentence for people.
    pub message: String,
    /// Whether the same call may succeed later.
    pub retryable: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

impl Error {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), retryable: kind == ErrorKind::Timeout, source: None }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    fn closed() -> Self {
        Self::new(ErrorKind::Canceled, "the bus is closed: open one")
    }

    fn because(self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Error { source: Some(Arc::new(cause)), ..self }
    }
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what the operating system has refused.
trait Doing<T> {
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        const SHORTAGES: [i32; 6] =
            [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOSPC, libc::EDQUOT, libc::EAGAIN];
        self.map_err(|cause| {
            let kind = match cause.kind() {
                io::ErrorKind::InvalidInput => ErrorKind::Invalid, // a path with NUL
                io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Unavailable,
            };
            let retryable = cause.raw_os_error().is_some_and(|code| SHORTAGES.contains(&code));
            Error { retryable, ..Error::new(kind, format!("cannot {what}: {cause}")).because(cause) }
        })
    }
}

/// Locks, whether or not a thread has panicked with the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

// ------------------------------------------------------------------------------------------------------------
// Names and stamps

const CONTROL: u8 = 0xff; // the first byte of the bus's own frames (W13)
const MAX_TOPICS: usize = 65_536; // W34, W35

/// A system and a kind: the text `system NUL kind NUL`, with which frames begin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Topic(Arc<str>);

impl Topic {
    fn system(&self) -> &str {
        self.0.split('\0').next().unwrap_or_default()
    }

    fn kind(&self) -> &str {
        self.0.split('\0').nth(1).unwrap_or_default()
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Says what is wrong with a system or kind (W3).
fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is required")
    } else if name.contains('\0') {
        Some("contains NUL, which separates fields: remove it")
    } else if name.contains(['*', '(', ')', '|']) {
        Some("contains one of '*()|', which only a subscription may use: send a literal name")
    } else if name.split('.').any(str::is_empty) {
        Some("has an empty segment: use single dots between words")
    } else {
        None
    }
}

fn check_topic(system: &str, kind: &str) -> Result<()> {
    for (field, name) in [("system", system), ("kind", kind)] {
        if let Some(why) = name_fault(name) {
            return Err(Error::invalid(format!("{field} {name:?} {why}")));
        }
    }
    if system == "zbus" || system.starts_with("zbus.") {
        return Err(Error::invalid(format!("system {system:?} is reserved for the bus itself: choose another name")));
    }
    Ok(())
}

fn check_path(path: &str) -> Result<()> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::invalid(format!("path {path:?} is empty or contains NUL: give a text without")));
    }
    Ok(())
}

/// The id of a sender, 8 to 16 hex digits and then zeros; all zeros if untold.
type Origin = [u8; 16];

fn origin_text(origin: &Origin) -> &str {
    str::from_utf8(origin).unwrap_or_default().trim_end_matches('\0')
}

/// The numbers and times of a frame (W5). `seq` is 0 if it has no stamp; what is `None` was not told.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Stamp {
    pub origin: Origin,
    pub seq: u64,
    pub born: Option<u64>,
    pub settled: Option<u64>,
    pub first: Option<u64>,
    pub time: Option<u64>,
}

impl Stamp {
    fn parse(raw: &[u8]) -> Option<Self> {
        if raw.is_empty() {
            return Some(Stamp::default());
        }
        let mut fields = raw.split(|&byte| byte == b'.');
        let id = fields.next().filter(|id| is_id(id, 8, 16))?;
        let seq = fields.next().and_then(number).filter(|&seq| seq > 0)?;
        let mut origin = Origin::default();
        origin[..id.len()].copy_from_slice(id);
        let mut next = || fields.next().and_then(number);
        Some(Stamp { origin, seq, born: next(), settled: next(), first: next(), time: next() })
    }
}

/// Whether a stamp names the buses on which the events have been, 1 to 32: a link has sent them (W55).
fn is_relayed(stamp: &[u8]) -> bool {
    let via = stamp.split(|&byte| byte == b'.').nth(6).unwrap_or_default();
    via.len() <= 32 * 17 && via.split(|&byte| byte == b'-').all(|bus| is_id(bus, 16, 16))
}

/// Reads a decimal number of at most 19 digits.
fn number(raw: &[u8]) -> Option<u64> {
    if raw.is_empty() || raw.len() > 19 || !raw.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(raw.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

fn is_id(raw: &[u8], least: usize, most: usize) -> bool {
    (least..=most).contains(&raw.len()) && raw.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

fn random() -> [u8; 8] {
    let mut raw = [0; 8];
    // SAFETY: the buffer has that much room. The kernel never gives less of so little.
    let got = unsafe { libc::getrandom(raw.as_mut_ptr().cast(), raw.len(), 0) };
    assert_eq!(got, 8, "the kernel has no random numbers");
    raw
}

fn new_id() -> String {
    format!("{:016x}", u64::from_ne_bytes(random()))
}

// ------------------------------------------------------------------------------------------------------------
// JSON: exactly what every receiver takes (W51)

const MAX_DEPTH: usize = 1024;

/// Whether a text is one JSON value that every receiver takes, inside `depth` arrays and objects.
fn is_json(text: &[u8], depth: usize) -> bool {
    let mut parser = serde_json::Deserializer::from_slice(text);
    parser.disable_recursion_limit();
    Strict(depth).deserialize(&mut parser).and_then(|()| parser.end()).is_ok()
}

/// Reads a value and keeps nothing of it. serde_json checks only what somebody reads: a number that is skipped may
/// be infinite, and a text have half a surrogate pair. The field is the depth so far.
struct Strict(usize);

impl Strict {
    fn deeper<E: serde::de::Error>(&self) -> Result<impl Fn() -> Strict, E> {
        let depth = self.0 + 1;
        if depth > MAX_DEPTH {
            return Err(E::custom("it is more than 1,024 levels deep"));
        }
        Ok(move || Strict(depth))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

macro_rules! take {
    ($($visit:ident($($kind:ty)?);)*) => { $(
        fn $visit<E>(self, $(_: $kind)?) -> Result<(), E> {
            Ok(())
        }
    )* };
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("JSON")
    }

    take! { visit_unit(); visit_bool(bool); visit_i64(i64); visit_u64(u64); visit_f64(f64); visit_str(&str); }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while items.next_element_seed(inner())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while fields.next_key_seed(inner())?.is_some() {
            fields.next_value_seed(inner())?;
        }
        Ok(())
    }
}

/// The items of a batch (W12): each path, and where its data is in the text.
fn batch_items(text: &[u8]) -> Option<Vec<(String, Range<usize>)>> {
    let items: Vec<Vec<&RawValue>> = serde_json::from_slice(text).ok()?;
    let item = |item: &Vec<&RawValue>| {
        let path: String = serde_json::from_str(item.first()?.get()).ok()?;
        let data = item.get(1).map_or("", |data| data.get());
        let good = item.len() <= 2 && check_path(&path).is_ok() && (data.is_empty() || is_json(data.as_bytes(), 2));
        let start = (data.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        good.then(|| (path, if data.is_empty() { 0..0 } else { start..start + data.len() }))
    };
    items.iter().map(item).collect()
}

/// Writes JSON, and notes whether there was a null, which may have been NaN, or text that nobody has checked.
struct Careful<'a>(&'a mut bool);

impl serde_json::ser::Formatter for Careful<'_> {
    fn write_null<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        *self.0 = true;
        to.write_all(b"null")
    }

    fn write_number_str<W: ?Sized + Write>(&mut self, to: &mut W, value: &str) -> io::Result<()> {
        self.write_raw_fragment(to, value)
    }

    fn write_raw_fragment<W: ?Sized + Write>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        *self.0 = true;
        to.write_all(fragment.as_bytes())
    }
}

/// Appends a value as JSON; null counts as no data, and leaves nothing. `depth` is how deep it will lie.
fn push_json<T: Serialize + ?Sized>(to: &mut Vec<u8>, data: &T, depth: usize) -> Result<()> {
    let (start, mut doubtful) = (to.len(), false);
    let wrong = |cause| Error::invalid(format!("the data cannot be sent as JSON: {cause}")).because(cause);
    let mut serializer = serde_json::Serializer::with_formatter(&mut *to, Careful(&mut doubtful));
    data.serialize(&mut serializer).map_err(wrong)?;
    doubtful |= to.len() - start > 2 * (MAX_DEPTH - depth); // so long, it may be too deep
    if doubtful {
        let finite = serde_value::to_value(data).is_ok_and(|value| is_finite(&value));
        if !finite || !is_json(&to[start..], depth) {
            let rules = "RFC 8259; finite numbers, whole surrogate pairs, at most 1,024 deep";
            return Err(Error::invalid(format!("the data is not the JSON that every receiver takes ({rules})")));
        }
    }
    if &to[start..] == b"null" {
        to.truncate(start);
    }
    Ok(())
}

/// Whether no number is NaN or infinite: serde_json would write null.
fn is_finite(value: &serde_value::Value) -> bool {
    use serde_value::Value::{Map, Newtype, Option, Seq, F32, F64};
    match value {
        F32(number) => number.is_finite(),
        F64(number) => number.is_finite(),
        Seq(items) => items.iter().all(is_finite),
        Map(fields) => fields.values().all(is_finite),
        Option(Some(inner)) | Newtype(inner) => is_finite(inner),
        _ => true,
    }
}

/// What a frame carries: a path and the data field, for so many events. The path of a batch is empty (W12).
#[doc(hidden)]
#[derive(Debug)]
pub struct Payload<'a> {
    path: &'a str,
    field: Vec<u8>,
    events: u64,
}

impl<'a> Payload<'a> {
    pub fn json<T: Serialize + ?Sized>(path: &'a str, data: &T) -> Result<Self> {
        check_path(path)?;
        let mut field = Vec::with_capacity(128);
        push_json(&mut field, data, 0)?;
        Ok(Payload { path, field, events: 1 })
    }

    pub fn bytes(path: &'a str, raw: &[u8]) -> Result<Self> {
        check_path(path)?;
        Ok(Payload { path, field: [&[0], raw].concat(), events: 1 })
    }

    pub fn batch<'i, T: Serialize + 'i>(items: impl IntoIterator<Item = (&'i str, &'i T)>) -> Result<Self> {
        let (mut field, mut events) = (vec![b'['], 0);
        for (path, data) in items {
            check_path(path)?;
            field.extend_from_slice(if events > 0 { b",[" } else { b"[" });
            push_json(&mut field, path, 2)?;
            let without = field.len();
            field.push(b',');
            push_json(&mut field, data, 2)?;
            if field.len() == without + 1 {
                field.truncate(without);
            }
            field.push(b']');
            events += 1;
        }
        field.push(b']');
        Ok(Payload { path: "", field, events })
    }

    /// Makes a frame with a ready stamp, for tools.
    pub fn encode(&self, system: &str, kind: &str, stamp: &str) -> Result<Vec<u8>> {
        check_topic(system, kind)?;
        let fields = [system.as_bytes(), kind.as_bytes(), self.path.as_bytes(), stamp.as_bytes(), &self.field];
        Ok(fields.join(&0))
    }
}

// ------------------------------------------------------------------------------------------------------------
// Patterns

/// A pattern that selects names. Its segments are separated by dots: `*` selects one segment, `**` any number of
/// them, `(a|b)` one of these, anything else itself. `*` on its own selects everything.
#[derive(Debug, Clone, Default)]
pub struct Pattern(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    One,
    Any,
    Words(Vec<String>), // sorted; one if it is literal
}

const MAX_PREFIXES: usize = 16;

impl str::FromStr for Pattern {
    type Err = Error;

    /// Compiles a pattern. The error is of kind [`ErrorKind::Invalid`], and names the form to use.
    fn from_str(pattern: &str) -> Result<Self> {
        if pattern == "*" {
            return Ok(Pattern(vec![Segment::Any]));
        }
        let no = |advice| Error::invalid(format!("{pattern:?} is not a pattern: {advice}"));
        pattern.split('.').map(|part| Segment::parse(part).map_err(no)).collect::<Result<_>>().map(Pattern)
    }
}

impl Segment {
    fn parse(part: &str) -> Result<Self, &'static str> {
        match part {
            "*" => return Ok(Segment::One),
            "**" => return Ok(Segment::Any),
            "" => return Err("it has an empty segment; use single dots between words, or '**' for everything"),
            _ => {}
        }
        let inner = part.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let mut words: Vec<_> = inner.map_or(vec![part], |inner| inner.split('|').collect());
        if words.iter().any(|word| matches!(*word, ">" | "#" | "+")) {
            return Err("for exactly one segment use '*', for any depth '**'");
        }
        if words.iter().any(|word| word.is_empty() || word.contains(['*', '(', ')', '|', '\0'])) {
            return Err("a wildcard is a whole segment, as in 'orders.*', and a bracket lists words, as in '(a|b)'");
        }
        words.sort_unstable();
        words.dedup();
        Ok(Segment::Words(words.into_iter().map(String::from).collect()))
    }

    fn selects(&self, word: &str) -> bool {
        match self {
            Segment::Words(words) => words.iter().any(|own| own == word),
            _ => true,
        }
    }
}

impl Pattern {
    /// Whether the pattern selects a name.
    pub fn matches(&self, name: &str) -> bool {
        let words: Vec<_> = name.split('.').collect();
        let (mut at, mut word) = (0, 0);
        let mut star = None; // where to go on after the latest `**`, and how many words were taken by then
        while word < words.len() {
            match (self.0.get(at), star) {
                (Some(Segment::Any), _) => {
                    at += 1;
                    star = Some((at, word));
                }
                (Some(segment), _) if segment.selects(words[word]) => (at, word) = (at + 1, word + 1),
                (_, Some((after, taken))) => {
                    star = Some((after, taken + 1)); // let it take one more
                    (at, word) = (after, taken + 1);
                }
                (_, None) => return false,
            }
        }
        self.0[at..].iter().all(|segment| *segment == Segment::Any)
    }

    /// The ZeroMQ subscriptions of a channel, sorted (W22). Without a kind, every kind is selected.
    #[doc(hidden)]
    pub fn prefixes(system: &Pattern, kind: Option<&Pattern>) -> Vec<Vec<u8>> {
        let (mut heads, literal) = system.heads();
        if literal {
            let selective = kind.filter(|kind| kind.0.iter().any(|segment| *segment != Segment::Any));
            let (tails, ends) = match selective.map(Pattern::heads) {
                Some((tails, ends)) if heads.len() * tails.len() <= MAX_PREFIXES => (tails, ends),
                _ => (vec![String::new()], false),
            };
            heads = each(&heads, "\0", &tails);
            if ends {
                heads.iter_mut().for_each(|head| head.push('\0'));
            }
        }
        heads.sort();
        heads.into_iter().map(String::into_bytes).collect()
    }

    /// The texts before the first wildcard, and whether there is none.
    fn heads(&self) -> (Vec<String>, bool) {
        let (mut heads, mut dot) = (vec![String::new()], "");
        for segment in &self.0 {
            match segment {
                Segment::Any => return (heads, false),
                Segment::Words(words) if heads.len() * words.len() <= MAX_PREFIXES => heads = each(&heads, dot, words),
                _ => return (each(&heads, dot, &[String::new()]), false),
            }
            dot = ".";
        }
        (heads, true)
    }
}

fn each(heads: &[String], between: &str, tails: &[String]) -> Vec<String> {
    heads.iter().flat_map(|head| tails.iter().map(move |tail| format!("{head}{between}{tail}"))).collect()
}

// ------------------------------------------------------------------------------------------------------------
// Loss

const MAX_GAP: u64 = 1 << 40; // W41

#[derive(Debug, Clone, Copy)]
struct Stream {
    begin: u64, // the number from which the channel counts
    due: u64,
}

/// Turns the frames of one channel, in the order in which they arrived, into events and gaps. The fields that it
/// shows are about the latest frame, except for the counters.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Decoder {
    pub events: Vec<Event>,
    pub gaps: Vec<Gap>,
    pub stamp: Stamp,
    pub lost: u64,
    pub malformed: u64,
    system: Pattern,
    kind: Option<Pattern>,
    limit: usize,
    announced: Option<u64>, // W38
    joined: Option<u64>,    // W28
    forgetful: bool,
    latest_born: u64,
    topics: HashMap<Topic, bool>, // whether the patterns select them
    young: HashMap<(Topic, Origin), Stream>,
    old: HashMap<(Topic, Origin), Stream>,
}

impl Decoder {
    /// `announced` and `joined` are times in microseconds of CLOCK_MONOTONIC, if known. It remembers the streams
    /// that it used last, at least `limit`.
    pub fn new(
        system: Pattern,
        kind: Option<Pattern>,
        announced: Option<u64>,
        joined: Option<u64>,
        limit: usize,
    ) -> Self {
        let forgetful = joined.is_none();
        Decoder { system, kind, announced, joined, limit, forgetful, ..Decoder::default() }
    }

    /// Decodes a frame into `events` and `gaps`, and counts.
    pub fn decode(&mut self, frame: &[u8]) {
        self.events.clear();
        self.gaps.clear();
        self.stamp = Stamp::default();
        if frame.first() != Some(&CONTROL) && self.try_decode(frame).is_none() {
            self.malformed += 1;
            self.events.clear();
        }
    }

    /// Returns `None` if the frame is malformed, in the order of W15.
    fn try_decode(&mut self, frame: &[u8]) -> Option<()> {
        let mut fields = frame.splitn(5, |&byte| byte == 0);
        let (system, kind, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (stamp, data) = (fields.next()?, fields.next()?);
        let (topic, selected) = self.topic(str::from_utf8(&frame[..system.len() + kind.len() + 2]).ok()?)?;
        if !selected {
            return Some(());
        }
        let path = str::from_utf8(path).ok()?;
        self.stamp = Stamp::parse(stamp)?;
        let start = frame.len() - data.len();
        if !path.is_empty() {
            if !matches!(data.first(), None | Some(0)) && !is_json(data, 0) {
                return None;
            }
            self.push(&topic, path.to_owned(), &frame.into(), start..frame.len());
        } else {
            let (items, whole) = (batch_items(data)?, Arc::from(frame));
            if items.is_empty() && self.stamp.seq == 0 {
                return None;
            }
            for (path, data) in items {
                self.push(&topic, path, &whole, start + data.start..start + data.end);
            }
        }
        if self.stamp.seq > 0 {
            self.count(topic, stamp)?;
        }
        if let Some(last) = self.events.last_mut() {
            last.ends_frame = true;
        }
        Some(())
    }

    /// Looks up a topic; returns `None` if these are no names.
    fn topic(&mut self, head: &str) -> Option<(Topic, bool)> {
        if let Some((topic, selected)) = self.topics.get_key_value(head) {
            return Some((topic.clone(), *selected));
        }
        let topic = Topic(head.into());
        let (system, kind) = (topic.system(), topic.kind());
        if name_fault(system).or(name_fault(kind)).is_some() {
            return None;
        }
        let selected = self.system.matches(system) && self.kind.as_ref().map_or(true, |own| own.matches(kind));
        if self.topics.len() >= MAX_TOPICS {
            self.topics.clear();
        }
        self.topics.insert(topic.clone(), selected);
        Some((topic, selected))
    }

    fn push(&mut self, topic: &Topic, path: String, frame: &Arc<[u8]>, data: Range<usize>) {
        let stamp = &self.stamp;
        self.events.push(Event {
            gaps: Vec::new(),
            topic: topic.clone(),
            path,
            frame: frame.clone(),
            data,
            origin: stamp.origin,
            seq: if stamp.seq > 0 { stamp.seq.saturating_add(self.events.len() as u64) } else { 0 },
            time: stamp.time,
            ends_frame: false,
        });
    }

    /// Accounts for the frame that was just read (W29 to W41); returns `None` if its number is not credible. What came
    /// before, and a link has sent again, is skipped (W56).
    fn count(&mut self, topic: Topic, raw: &[u8]) -> Option<()> {
        let (stamp, events) = (self.stamp, self.events.len() as u64);
        let key = (topic, stamp.origin);
        // As a rule, the events that are due.
        if let Some(stream) = self.young.get_mut(&key).filter(|stream| events > 0 && stream.due == stamp.seq) {
            stream.due = stamp.seq.saturating_add(events);
            return Some(());
        }
        let known = self.find(&key);
        let due = known.map(|stream| stream.due).or_else(|| self.first_due(&stamp));
        if due.is_some_and(|due| stamp.seq > due && stamp.seq - due > MAX_GAP) {
            return None;
        }
        let came_before = known.is_some_and(|stream| stamp.seq.saturating_add(events) <= stream.due);
        if events > 0 && came_before && is_relayed(raw) {
            self.events.clear();
            return Some(());
        }
        if known.is_none() {
            self.latest_born = self.latest_born.max(stamp.born.unwrap_or(0));
        }
        let Some(due) = due else { return Some(()) };
        let mut stream = known.unwrap_or(Stream { begin: due, due });
        if known.is_some() && events == 0 {
            self.count_head(&key, &mut stream);
        }
        if due < stamp.seq {
            self.lose(&key, due, stamp.seq - 1);
        }
        stream.due = if events == 0 { due.max(stamp.seq) } else { stamp.seq.saturating_add(events) };
        self.keep(key, stream);
        Some(())
    }

    /// Which number is due when a stream is first seen, if it is counted yet (W29).
    fn first_due(&self, stamp: &Stamp) -> Option<u64> {
        if stamp.born.zip(self.joined).is_some_and(|(born, joined)| born > joined) {
            return Some(1);
        }
        let Some(settled) = stamp.settled else { return Some(stamp.seq) };
        if self.announced.is_some_and(|announced| settled <= announced) {
            return None;
        }
        let first = stamp.first.filter(|&first| 0 < first && first <= stamp.seq && !self.forgetful);
        Some(first.unwrap_or(stamp.seq))
    }

    /// Counts what a mark shows that was lost before the stream was counted (W40).
    fn count_head(&mut self, key: &(Topic, Origin), stream: &mut Stream) {
        let (Some(settled), Some(first)) = (self.stamp.settled, self.stamp.first) else { return };
        if self.forgetful || self.announced.is_some_and(|announced| settled <= announced) {
            return;
        }
        if first > 0 && first < stream.begin && stream.begin - first <= MAX_GAP {
            self.lose(key, first, stream.begin - 1);
            stream.begin = first;
        }
    }

    fn lose(&mut self, (topic, origin): &(Topic, Origin), first: u64, last: u64) {
        self.gaps.push(Gap { first, last, topic: topic.clone(), origin: *origin });
        self.lost += last - first + 1;
    }

    fn find(&mut self, key: &(Topic, Origin)) -> Option<Stream> {
        if let Some(stream) = self.young.get(key) {
            return Some(*stream);
        }
        let stream = self.old.remove(key)?;
        self.keep(key.clone(), stream);
        Some(stream)
    }

    /// Makes a stream one of the young. When there are too many, the old ones are forgotten (W34).
    fn keep(&mut self, key: (Topic, Origin), stream: Stream) {
        if self.young.len() >= self.limit && !self.young.contains_key(&key) {
            if !self.old.is_empty() {
                self.forgetful = true;
                self.joined = self.joined.map(|joined| joined.max(self.latest_born));
            }
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, stream);
    }
}

// ------------------------------------------------------------------------------------------------------------
// The directory: where it is, who may use it, what is in it

/// What a full queue of a subscription means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// Events that have no room are lost, and counted.
    #[default]
    Drop,
    /// Publishers wait: one slow subscriber holds up everybody who sends to it.
    Block,
}

impl Overflow {
    #[doc(hidden)]
    pub fn name(self) -> &'static str {
        ["drop", "block"][self as usize]
    }
}

/// What a name in a bus directory stands for (R5): an id, mostly.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileName {
    Entry { id: String, epoch: u64, overflow: Overflow },
    Socket(String),
    Member(String),
    New(String),
    Token,
}

impl FileName {
    /// Returns `None` for what a peer may not touch.
    pub fn parse(name: &[u8]) -> Option<Self> {
        let name = str::from_utf8(name).ok()?;
        let Some((id, rest)) = name.split_once('.') else { return (name == "token").then_some(FileName::Token) };
        let id = Some(id).filter(|id| is_id(id.as_bytes(), 8, 32))?.to_owned();
        Some(match rest.split_once('.') {
            None if rest == "sock" => FileName::Socket(id),
            None if rest == "member" => FileName::Member(id),
            None if rest == "new" => FileName::New(id),
            Some((epoch, "drop")) => FileName::Entry { id, epoch: parse_epoch(epoch)?, overflow: Overflow::Drop },
            Some((epoch, "block")) => FileName::Entry { id, epoch: parse_epoch(epoch)?, overflow: Overflow::Block },
            _ => return None,
        })
    }
}

fn parse_epoch(text: &str) -> Option<u64> {
    number(text.as_bytes()).filter(|_| text.len() <= 18 && !text.starts_with('0'))
}

/// The ingress and epoch of a sentinel, if the topic of a ZeroMQ subscription is one (W26).
#[doc(hidden)]
pub fn parse_sentinel(topic: &[u8]) -> Option<(String, u64)> {
    let (id, epoch) = str::from_utf8(topic.strip_prefix(&[CONTROL])?).ok()?.split_once('.')?;
    is_id(id.as_bytes(), 8, 32).then_some((id.to_owned(), parse_epoch(epoch)?))
}

/// Whether a bus may have this name (R2).
#[doc(hidden)]
pub fn is_bus_name(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with(['-', '.'])
}

fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The directory that holds all buses of this user (R1).
#[doc(hidden)]
pub fn default_root() -> PathBuf {
    if let Some(root) = variable("ZBUS_DIR") {
        return root.into();
    }
    let usable = |run: &PathBuf| fs::metadata(run).map_or(true, |there| there.uid() == effective_user());
    match variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(usable) {
        Some(run) => run.join("zbus"),
        None => Path::new(&variable("TMPDIR").unwrap_or("/tmp".into())).join(format!("zbus-{}", effective_user())),
    }
}

fn effective_user() -> u32 {
    // SAFETY: it has no conditions.
    unsafe { libc::geteuid() }
}

/// Whether a path still leads to an open file; in doubt, it does.
fn leads_to(path: &Path, file: &File) -> bool {
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(there), Ok(here)) => (there.dev(), there.ino()) == (here.dev(), here.ino()),
        (Err(cause), _) => cause.kind() != io::ErrorKind::NotFound,
        _ => true,
    }
}

/// Opens a regular file, follows no link, and never blocks (R32).
fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is not a regular file", path.display())));
    }
    Ok(file)
}

/// Removes a regular file or a socket; returns whether it did.
fn remove_ours(path: &Path) -> bool {
    let ours = |there: fs::Metadata| there.is_file() || there.file_type().is_socket();
    fs::symlink_metadata(path).is_ok_and(ours) && fs::remove_file(path).is_ok()
}

fn flock(file: &File, operation: libc::c_int) -> bool {
    // SAFETY: the descriptor is open.
    unsafe { libc::flock(file.as_raw_fd(), operation) == 0 }
}

const PRIVATE: u32 = 0o700;
const TO_SHARE: &str =
    "Several users share a bus in a directory that is prepared for a group of theirs, with ZBUS_DIR \
                        set to it: install -d -g GROUP -m 2770 DIRECTORY";

/// The mode of a directory if it is prepared for a group (R47).
fn group_mode(there: &fs::Metadata) -> Option<u32> {
    Some(there.mode() & 0o7777).filter(|mode| mode & 0o2072 == 0o2070)
}

/// Refuses a directory that another user controls or can write to (R46, R47); returns the mode of what is created in
/// it (R48). Whether this process is in the group of a directory is left to the kernel.
fn check_directory(path: &Path, by_default: bool, is_bus: bool) -> Result<u32> {
    let there = fs::symlink_metadata(path).doing(format_args!("use {}", path.display()))?;
    let (uid, me, shared) = (there.uid(), effective_user(), group_mode(&there));
    let on_the_way = !is_bus && uid == 0 && there.mode() & 0o020 == 0;
    let why = if there.file_type().is_symlink() {
        "is a symbolic link: name the directory itself".to_owned()
    } else if !there.is_dir() {
        "is not a directory: remove it or set ZBUS_DIR".to_owned()
    } else if there.mode() & 0o002 != 0 {
        "is writable by everybody, who could forge events: chmod o-w it".to_owned()
    } else if by_default && uid != me {
        format!("belongs to user {uid}, where user {me} has buses of their own: set ZBUS_DIR. {TO_SHARE}")
    } else if shared.is_some() && there.mode() & 0o1000 != 0 {
        "has the sticky bit, so nobody could clean up after another user: chmod -t it".to_owned()
    } else if shared.is_none() && uid != me && !on_the_way {
        format!("belongs to user {uid}, for them alone: share another directory with them. {TO_SHARE}")
    } else {
        return Ok(shared.unwrap_or(PRIVATE));
    };
    Err(Error::new(ErrorKind::PermissionDenied, format!("{} {why}", path.display())))
}

/// Creates a directory, unless it exists. It has its rights before it has its name; the group is that of the
/// directory around it, which has the setgid bit.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    let scratch = path.with_file_name(format!(".{}.new", new_id()));
    DirBuilder::new().mode(PRIVATE).create(&scratch)?;
    let named =
        fs::set_permissions(&scratch, fs::Permissions::from_mode(mode)).and_then(|()| fs::rename(&scratch, path));
    named.or_else(|cause| {
        let _ = fs::remove_dir(&scratch);
        fs::symlink_metadata(path).map(drop).map_err(|_| cause)
    })
}

/// Creates what is missing of the path of a bus, and checks the rest (R3); returns the mode of the bus.
fn make_bus(path: &Path, by_default: bool) -> Result<u32> {
    let mut ancestors = path.ancestors().skip(1);
    let mut next = || ancestors.next().unwrap_or(path);
    let (version, root, above) = (next(), next(), next());
    if fs::symlink_metadata(root).is_err() {
        check_parents(root)?;
        fs::create_dir_all(above).doing(format_args!("create {}", above.display()))?;
    }
    let closed = |mode: &u32| mode & 0o007 == 0 && !by_default;
    let mut mode = fs::metadata(above).ok().as_ref().and_then(group_mode).filter(closed).unwrap_or(PRIVATE);
    for directory in [root, version, path] {
        make_directory(directory, mode).doing(format_args!("create {}", directory.display()))?;
        mode = check_directory(directory, by_default && directory == root, directory == path)?;
    }
    Ok(mode)
}

/// Refuses to create a root as root inside a directory of another user (R49).
fn check_parents(root: &Path) -> Result<()> {
    let there = root.ancestors().skip(1).find_map(|parent| fs::metadata(parent).ok());
    match there.filter(|_| effective_user() == 0) {
        Some(there) if there.uid() != 0 && there.mode() & 0o002 == 0 && group_mode(&there).is_none() => {
            let (root, user) = (root.display(), there.uid());
            let why =
                format!("{root} would be root's, in a directory of user {user}: run this as that user. {TO_SHARE}");
            Err(Error::new(ErrorKind::PermissionDenied, why))
        }
        _ => Ok(()),
    }
}

/// The directory of a bus.
struct Roster {
    path: PathBuf,
    by_default: bool,
    handles: RwLock<Vec<Handle>>, // the last is in use; others may still have the tokens of the former ones mapped
}

/// An open bus directory, with a shared lock (R35), and its token.
struct Handle {
    directory: File,
    token: File,
    mapped: memmap2::Mmap,
    file_mode: u32,
}

/// The state of a bus directory: which handle, and its token. Who knows the same view has nothing to look at.
type View = (usize, u64);

impl Handle {
    /// Opens what is at the path of a bus, and creates what is missing.
    fn open(path: &Path, by_default: bool) -> Result<Self> {
        for _ in 0..10 {
            let mode = make_bus(path, by_default)?;
            let handle = Self::open_once(path, mode).doing(format_args!("open {}", path.display()))?;
            if handle.is_at(path) {
                return Ok(handle);
            } // otherwise somebody has created or removed it at the same time
        }
        Err(Error::new(ErrorKind::Unavailable, format!("{} is removed again and again: by whom?", path.display())))
    }

    fn open_once(path: &Path, mode: u32) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        flock(&directory, libc::LOCK_SH | libc::LOCK_NB);
        let file_mode = if mode == PRIVATE { 0o600 } else { 0o660 };
        let name = path.join("token");
        if fs::symlink_metadata(&name).is_err() {
            make_file(path, &new_id(), file_mode, &random(), |scratch| match fs::hard_link(scratch, &name) {
                Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(cause),
                _ => fs::remove_file(scratch),
            })?;
        }
        let token = open_regular(&name, OpenOptions::new().write(true))?;
        if token.metadata()?.len() < 8 {
            token.write_all_at(&random(), 0)?;
        }
        // SAFETY: nobody makes the file shorter (R10).
        let mapped = unsafe { memmap2::MmapOptions::new().len(8).map(&token)? };
        Ok(Handle { directory, token, mapped, file_mode })
    }

    fn token(&self) -> u64 {
        // SAFETY: it is mapped, and aligned as a page is. Others write it with one call.
        unsafe { self.mapped.as_ptr().cast::<AtomicU64>().as_ref() }.map_or(0, |token| token.load(Relaxed))
    }

    fn touch(&self) -> io::Result<()> {
        self.token.write_all_at(&random(), 0)
    }

    /// Whether others who open the bus find this directory and this token.
    fn is_at(&self, path: &Path) -> bool {
        leads_to(path, &self.directory) && leads_to(&path.join("token"), &self.token)
    }
}

impl Roster {
    fn open(root: &Path, bus: &str, by_default: bool) -> Result<Self> {
        if !is_bus_name(bus) {
            let rules = "use letters, digits, '_', '-', '.', at most 64";
            return Err(Error::invalid(format!("{bus:?} is not a bus name: {rules}")));
        }
        let path = std::path::absolute(root).doing("find the working directory")?.join("v1").join(bus);
        let length = path.as_os_str().len() + "/0123456789abcdef.sock".len();
        if length > 107 {
            return Err(Error::invalid(format!(
                "{} is too long: its sockets would have {length} bytes of at most 107; shorten ZBUS_DIR, or the bus name",
                path.display()
            )));
        }
        let handle = Handle::open(&path, by_default)?;
        lock(&DIRECTORIES).insert(fs::canonicalize(&path).unwrap_or(path.clone()));
        Ok(Roster { path, by_default, handles: vec![handle].into() })
    }

    fn handles(&self) -> RwLockReadGuard<'_, Vec<Handle>> {
        self.handles.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn view(&self) -> View {
        let handles = self.handles();
        (handles.len(), handles.last().map_or(0, Handle::token))
    }

    /// Writes a new token, so that everybody looks again; the former ones, too (R38).
    fn touch(&self) -> Result<()> {
        let handles = self.handles();
        let results: Vec<_> = handles.iter().rev().map(Handle::touch).collect();
        results.into_iter().next().unwrap_or(Ok(())).doing("write the token")
    }

    fn is_current(&self) -> bool {
        self.handles().last().is_some_and(|handle| handle.is_at(&self.path))
    }

    /// Opens what is at the path now, if somebody has removed or replaced it (R38); returns whether.
    fn follow(&self) -> Result<bool> {
        if self.is_current() {
            return Ok(false);
        }
        let handle = Handle::open(&self.path, self.by_default)?;
        self.handles.write().unwrap_or_else(|poisoned| poisoned.into_inner()).push(handle);
        Ok(true)
    }

    fn file_mode(&self) -> u32 {
        self.handles().last().map_or(0o600, |handle| handle.file_mode)
    }

    fn socket(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}.sock"))
    }

    /// Lets a file appear whole, and locked while it is open (R8, R29).
    fn create(&self, id: &str, name: &str, content: &[u8]) -> Result<File> {
        let path = self.path.join(name);
        let mode = self.file_mode();
        make_file(&self.path, id, mode, content, |scratch| fs::rename(scratch, &path))
            .doing(format_args!("write {}", path.display()))
    }

    fn list(&self) -> Result<Vec<FileName>> {
        let names = fs::read_dir(&self.path).and_then(|files| {
            files.filter_map(|file| file.map(|file| FileName::parse(file.file_name().as_bytes())).transpose()).collect()
        });
        names.doing(format_args!("list {}", self.path.display()))
    }

    /// The newest entry of each ingress, as of one moment (R7, R13).
    fn entries(&self) -> Result<HashMap<String, (u64, Overflow)>> {
        loop {
            let (before, names) = (self.view(), self.list()?);
            if self.view() != before {
                continue;
            }
            let mut newest = HashMap::new();
            for name in names {
                if let FileName::Entry { id, epoch, overflow } = name {
                    let known = newest.entry(id).or_insert((epoch, overflow));
                    if epoch > known.0 {
                        *known = (epoch, overflow);
                    }
                }
            }
            return Ok(newest);
        }
    }

    /// Removes the files of a dead ingress, and tells others (R27).
    fn bury(&self, dead: &str) {
        let mut removed = false;
        for name in self.list().unwrap_or_default() {
            match name {
                FileName::Entry { id, epoch, overflow } if id == dead => {
                    removed |= remove_ours(&self.path.join(format!("{id}.{epoch}.{}", overflow.name())));
                }
                _ => {}
            }
        }
        if remove_ours(&self.socket(dead)) || removed {
            let _ = self.touch();
        }
    }

    /// Removes what dead processes left, for a moment; the next peer goes on (R28, R34).
    fn reap(&self) {
        let (until, mut seen) = (Instant::now() + Duration::from_millis(200), HashSet::new());
        for name in self.list().unwrap_or_default() {
            match name {
                _ if Instant::now() > until => return,
                FileName::Member(id) => {
                    let path = self.path.join(format!("{id}.member"));
                    let file = open_regular(&path, &mut OpenOptions::new());
                    if file.is_ok_and(|file| flock(&file, libc::LOCK_SH | libc::LOCK_NB)) {
                        remove_ours(&path);
                    }
                }
                FileName::Entry { id, .. } | FileName::Socket(id) => {
                    if !seen.contains(&id) && !answers(&self.socket(&id)) {
                        self.bury(&id);
                    }
                    seen.insert(id);
                }
                FileName::New(_) | FileName::Token => {}
            }
        }
    }
}

/// Writes `<id>.new` with its rights, and gives it a name.
fn make_file(
    directory: &Path,
    id: &str,
    mode: u32,
    content: &[u8],
    name: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<File> {
    let scratch = directory.join(format!("{id}.new"));
    let file = open_regular(&scratch, OpenOptions::new().write(true).create_new(true).mode(mode))?;
    flock(&file, libc::LOCK_EX);
    let made = file.set_permissions(fs::Permissions::from_mode(mode)).and_then(|()| file.write_all_at(content, 0));
    made.and_then(|()| name(&scratch)).inspect_err(|_| _ = remove_ours(&scratch))?;
    Ok(file)
}

/// What a file says about this process (R8, R30).
fn describe<const N: usize>(more: [(&str, Value); N]) -> Vec<u8> {
    let path = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let process = format!("{:?}", path.file_name().unwrap_or_default()); // this escapes what is not UTF-8
    let mut text = json!({"process": process.trim_matches('"'), "pid": std::process::id(), "language": "rust"});
    for (field, value) in more {
        text[field] = value;
    }
    text.to_string().into_bytes()
}

/// The file that shows this process to people and tools (R29 to R31).
struct Member {
    id: String,
    path: PathBuf,
    state: Mutex<MemberState>,
}

struct MemberState {
    file: File,
    counts: [u64; 4],
    origins: Vec<String>,
}

#[derive(Clone, Copy)]
enum Counter {
    Lost,
    Malformed,
    JoinTimeouts,
    SendTimeouts,
}

impl Member {
    fn create(roster: &Roster) -> Result<Self> {
        let id = new_id();
        let path = roster.path.join(format!("{id}.member"));
        let (counts, origins) = ([0; 4], Vec::new());
        let file = Self::write(roster, &id, &counts, &origins)?;
        Ok(Member { id, path, state: Mutex::new(MemberState { file, counts, origins }) })
    }

    fn write(roster: &Roster, id: &str, counts: &[u64; 4], origins: &[String]) -> Result<File> {
        let mut content: Vec<_> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
        content.resize(128, 0);
        content.extend(describe([("origins", json!(origins))]));
        roster.create(id, &format!("{id}.member"), &content)
    }

    /// Creates the file again if somebody has removed it; returns whether.
    fn restore(&self, roster: &Roster) -> Result<bool> {
        let state = &mut *lock(&self.state);
        let missing = !leads_to(&self.path, &state.file);
        if missing {
            state.file = Self::write(roster, &self.id, &state.counts, &state.origins)?;
        }
        Ok(missing)
    }

    /// Nobody depends on what is written here and below, and the disk may be full.
    fn add(&self, counter: Counter, n: u64) {
        if n > 0 {
            let state = &mut *lock(&self.state);
            let count = &mut state.counts[counter as usize];
            *count += n;
            let _ = state.file.write_all_at(&count.to_le_bytes(), 8 * counter as u64);
        }
    }

    fn new_origin(&self) -> Arc<str> {
        let (origin, state) = (new_id(), &mut *lock(&self.state));
        if state.origins.len() == 100 {
            state.origins.remove(0); // the text does not get shorter (R53)
        }
        state.origins.push(origin.clone());
        let _ = state.file.write_all_at(&describe([("origins", json!(state.origins))]), 128);
        origin.into()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        remove_ours(&self.path);
    }
}

// ------------------------------------------------------------------------------------------------------------
// What the kernel knows: the time, sockets, threads

/// The machine's CLOCK_MONOTONIC in microseconds, if it can be determined (W8).
fn clock() -> Option<u64> {
    static OFFSET: OnceLock<Option<i64>> = OnceLock::new();
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is written to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    let offset = (*OFFSET.get_or_init(clock_offset))?;
    u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1000 - offset).ok()
}

/// What the time namespace of this process adds, in microseconds.
fn clock_offset() -> Option<i64> {
    let Ok(own) = fs::read_link("/proc/self/ns/time") else { return Some(0) }; // the kernel has no such namespaces
    if fs::read_link("/proc/self/ns/time_for_children").ok()? != own {
        return None;
    }
    let offsets = fs::read_to_string("/proc/self/timens_offsets").ok()?;
    let mut fields = offsets.lines().find(|line| line.starts_with("monotonic"))?.split_whitespace().skip(1);
    let mut next = || fields.next()?.parse::<i64>().ok();
    Some(next()? * 1_000_000 + next()? / 1000)
}

/// Whether a process listens at a socket (R26); in doubt, it does. The kernel tells a datagram socket so without a
/// connection.
fn answers(path: &Path) -> bool {
    let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    !asked.is_err_and(|cause| matches!(cause.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound))
}

/// The open descriptors of this process, as sockets, which most are not. They are not closed when dropped.
fn descriptors() -> impl Iterator<Item = ManuallyDrop<UnixStream>> {
    let files = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = files.filter_map(|file| file.file_name().to_str()?.parse::<RawFd>().ok());
    // SAFETY: it is only looked at, and never closed. Another thread may have closed it: then looking fails.
    numbers.map(|fd| ManuallyDrop::new(unsafe { UnixStream::from_raw_fd(fd) }))
}

/// The ingress whose socket has this address. Its path may have several names, so only the last part counts (R25).
fn ingress_at(address: io::Result<std::os::unix::net::SocketAddr>) -> Option<String> {
    match FileName::parse(address.ok()?.as_pathname()?.file_name()?.as_bytes())? {
        FileName::Socket(id) | FileName::New(id) => Some(id),
        _ => None,
    }
}

/// The connections of this process to ingresses.
fn connections() -> impl Iterator<Item = (ManuallyDrop<UnixStream>, String)> {
    descriptors().filter_map(|socket| ingress_at(socket.peer_addr()).map(|id| (socket, id)))
}

/// Whether the peer of a socket has yet to read something.
fn has_unread(socket: &UnixStream) -> bool {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) == 0 && bytes > 0 }
}

/// How often the threads in which libzmq writes have fallen asleep, if all of them sleep. Then they have written all
/// that there was room for.
fn naps() -> Option<u64> {
    let mut naps = 0;
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
        if status.starts_with("Name:\tZMQbg/IO/") {
            status.contains("\nState:\tS").then_some(())?;
            naps +=
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:\t"))?.parse::<u64>().ok()?;
        }
    }
    Some(naps)
}

/// How often this process has forked, as a child.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// All bus directories that were opened.
static DIRECTORIES: Mutex<std::collections::BTreeSet<PathBuf>> = Mutex::new(std::collections::BTreeSet::new());

fn watch_forks() {
    static ONCE: Once = Once::new();
    // SAFETY: the handler may run in any child.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(after_fork));
    });
}

/// Closes what a child has inherited (R31, R35): files and sockets of a bus become /dev/null, so that what still
/// refers to them does no harm.
unsafe extern "C" fn after_fork() {
    FORKS.fetch_add(1, Relaxed);
    let (Ok(null), Ok(directories)) = (File::open("/dev/null"), DIRECTORIES.try_lock()) else { return };
    for socket in descriptors() {
        let file = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap_or_default();
        let is_file = file.ancestors().take(2).any(|path| directories.contains(path));
        if is_file || ingress_at(socket.peer_addr()).or(ingress_at(socket.local_addr())).is_some() {
            libc::dup3(null.as_raw_fd(), socket.as_raw_fd(), libc::O_CLOEXEC);
        }
    }
}

// ------------------------------------------------------------------------------------------------------------
// libzmq

/// The functions of libzmq that are used here.
mod ffi {
    use libc::{c_char, c_int, c_long, c_short, c_void, size_t};

    pub type At = unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int;

    #[repr(C)]
    pub struct PollItem {
        pub socket: *mut c_void,
        pub fd: c_int,
        pub events: c_short,
        pub revents: c_short,
    }

    #[link(name = "zmq")]
    extern "C" {
        pub fn zmq_errno() -> c_int;
        pub fn zmq_ctx_new() -> *mut c_void;
        pub fn zmq_ctx_term(context: *mut c_void) -> c_int;
        pub fn zmq_socket(context: *mut c_void, kind: c_int) -> *mut c_void;
        pub fn zmq_close(socket: *mut c_void) -> c_int;
        pub fn zmq_setsockopt(socket: *mut c_void, option: c_int, value: *const c_void, size: size_t) -> c_int;
        pub fn zmq_getsockopt(socket: *mut c_void, option: c_int, value: *mut c_void, size: *mut size_t) -> c_int;
        pub fn zmq_bind(socket: *mut c_void, endpoint: *const c_char) -> c_int;
        pub fn zmq_connect(socket: *mut c_void, endpoint: *const c_char) -> c_int;
        pub fn zmq_disconnect(socket: *mut c_void, endpoint: *const c_char) -> c_int;
        pub fn zmq_send(socket: *mut c_void, data: *const c_void, size: size_t, flags: c_int) -> c_int;
        pub fn zmq_recv(socket: *mut c_void, data: *mut c_void, size: size_t, flags: c_int) -> c_int;
        pub fn zmq_poll(items: *mut PollItem, count: c_int, milliseconds: c_long) -> c_int;
    }

    pub const SUB: c_int = 2;
    pub const XPUB: c_int = 9;
    pub const SUBSCRIBE: c_int = 6;
    pub const FD: c_int = 14;
    pub const EVENTS: c_int = 15;
    pub const LINGER: c_int = 17;
    pub const BACKLOG: c_int = 19;
    pub const RECONNECT_IVL_MAX: c_int = 21;
    pub const MAXMSGSIZE: c_int = 22;
    pub const SNDHWM: c_int = 23;
    pub const RCVHWM: c_int = 24;
    pub const SNDTIMEO: c_int = 28;
    pub const IMMEDIATE: c_int = 39;
    pub const XPUB_NODROP: c_int = 69;
    pub const DONTWAIT: c_int = 1;
    pub const POLLIN: c_short = 1;
}

/// The latest error of libzmq in this thread.
fn zmq_error() -> io::Error {
    // SAFETY: it has no conditions.
    io::Error::from_raw_os_error(unsafe { ffi::zmq_errno() })
}

/// Calls a function of libzmq, again if a signal has interrupted it.
fn patiently(mut call: impl FnMut() -> libc::c_int) -> io::Result<usize> {
    loop {
        match usize::try_from(call()).map_err(|_| zmq_error()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Waits for all sockets to be closed when it is dropped.
struct Context(*mut libc::c_void);

// SAFETY: libzmq lets any thread use a context.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nobody has the pointer any more.
        let _ = patiently(|| unsafe { ffi::zmq_ctx_term(self.0) });
    }
}

/// A socket. One thread at a time may use it, so it is not `Sync`.
struct Socket(*mut libc::c_void);

// SAFETY: a socket may migrate between threads behind a full fence, which any lock or channel is.
unsafe impl Send for Socket {}

impl Socket {
    fn new(context: &Context, kind: libc::c_int, options: &[(libc::c_int, libc::c_int)]) -> Result<Self> {
        // SAFETY: the context has not ended.
        let socket = Socket(unsafe { ffi::zmq_socket(context.0, kind) });
        if socket.0.is_null() {
            mem::forget(socket);
            return Err(zmq_error()).doing("open a socket");
        }
        options.iter().for_each(|&(option, value)| socket.set(option, &value.to_ne_bytes()));
        Ok(socket)
    }

    fn set(&self, option: libc::c_int, value: &[u8]) {
        // SAFETY: the value is as long as it says.
        unsafe { ffi::zmq_setsockopt(self.0, option, value.as_ptr().cast(), value.len()) };
    }

    /// Binds, connects or disconnects.
    fn at(&self, path: &Path, call: ffi::At) -> io::Result<()> {
        let endpoint = CString::new([b"ipc://", path.as_os_str().as_bytes()].concat())?;
        // SAFETY: the endpoint ends with NUL.
        patiently(|| unsafe { call(self.0, endpoint.as_ptr()) }).map(drop)
    }

    /// Sends a frame; returns whether it was taken.
    fn send(&self, frame: &[u8], flags: libc::c_int) -> Result<bool> {
        // SAFETY: the frame is as long as it says.
        match patiently(|| unsafe { ffi::zmq_send(self.0, frame.as_ptr().cast(), frame.len(), flags) }) {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => Ok(false),
            sent => sent.map(|_| true).doing("send"),
        }
    }

    /// Takes a message without waiting; returns what of it fits in the buffer.
    fn receive<'a>(&self, to: &'a mut [u8]) -> Option<&'a [u8]> {
        // SAFETY: the buffer has room for as much as it says.
        let size = patiently(|| unsafe { ffi::zmq_recv(self.0, to.as_mut_ptr().cast(), to.len(), ffi::DONTWAIT) });
        size.ok().map(|size| &to[..size.min(to.len())])
    }

    /// Has libzmq do what peers have asked for: join, or make room.
    fn serve(&self) {
        self.get(ffi::EVENTS);
    }

    /// Returns the descriptor that tells when there may be something to take. It tells of changes only.
    fn descriptor(&self) -> libc::c_int {
        self.get(ffi::FD)
    }

    fn get(&self, option: libc::c_int) -> libc::c_int {
        let (mut value, mut size): (libc::c_int, _) = (-1, mem::size_of::<libc::c_int>());
        // SAFETY: `value` has room for as much as `size` says.
        unsafe { ffi::zmq_getsockopt(self.0, option, std::ptr::from_mut(&mut value).cast(), &mut size) };
        value
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: nobody uses the socket afterwards.
        unsafe { ffi::zmq_close(self.0) };
    }
}

/// Waits until there is something to read.
fn poll(sockets: &[Socket], milliseconds: i64) {
    let item = |socket: &Socket| ffi::PollItem { socket: socket.0, fd: 0, events: ffi::POLLIN, revents: 0 };
    let mut items: Vec<_> = sockets.iter().map(item).collect();
    // SAFETY: there are as many items as it says.
    unsafe { ffi::zmq_poll(items.as_mut_ptr(), items.len() as libc::c_int, milliseconds as libc::c_long) };
}

/// Wakes a thread that waits: what is sent at one end is read at the other.
struct Wake(UnixDatagram, UnixDatagram);

impl Wake {
    fn new() -> Result<Self> {
        let (read, write) = UnixDatagram::pair().doing("open a pair of sockets")?;
        read.set_nonblocking(true).and_then(|()| write.set_nonblocking(true)).doing("open a pair of sockets")?;
        Ok(Wake(read, write))
    }

    fn signal(&self) {
        let _ = self.1.send(&[0]);
    }

    /// Waits for a signal, or for another descriptor if it is not negative. `zmq_poll` makes twice as many system calls.
    fn wait(&self, other: libc::c_int, milliseconds: libc::c_int) {
        let item = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut items = [item(self.0.as_raw_fd()), item(other)];
        // SAFETY: there are two items.
        unsafe { libc::poll(items.as_mut_ptr(), 2, milliseconds) };
        if items[0].revents != 0 {
            while self.0.recv(&mut [0]).is_ok() {}
        }
    }
}

// ------------------------------------------------------------------------------------------------------------
// Receiving: a subscription is an ingress of its own, one bound SUB, and a thread that always serves it

const LEAST_HWM: usize = 1000; // frames that wait in a socket before the thread takes them
const BLOCK_HWM: usize = 1000;
const CAPACITY_BYTES: usize = 64 << 20;
const MOST_GAPS: usize = 1000; // of one event

/// What the user and the thread of a subscription share.
struct Channel {
    id: String,
    overflow: Overflow,
    capacity: usize,
    wake: Wake,
    stop: AtomicBool,
    removed: AtomicBool, // files of it
    events: crossbeam_channel::Receiver<Event>,
    frames: AtomicUsize, // that wait in it
    bytes: AtomicUsize,
    received: AtomicU64,
    lost: AtomicU64,
    malformed: AtomicU64,
}

impl Channel {
    fn has_room(&self, bytes: usize) -> bool {
        let frames = self.frames.load(Relaxed);
        frames == 0 || frames < self.capacity && self.bytes.load(Relaxed) + bytes <= CAPACITY_BYTES
    }

    /// Counts an event that the user has taken.
    fn taken(&self, evt: Event) -> Event {
        self.received.fetch_add(1, Relaxed);
        if evt.ends_frame {
            self.bytes.fetch_sub(evt.frame.len(), Relaxed);
            let left = self.frames.fetch_sub(1, Relaxed) - 1;
            if self.overflow == Overflow::Block && left == self.capacity / 2 {
                self.wake.signal(); // there is room again
            }
        }
        evt
    }

    /// Ends the thread. What has arrived can still be received.
    fn end(&self) {
        self.stop.store(true, Relaxed);
        self.wake.signal();
    }
}

/// The files of an ingress. When it is dropped, it leaves the roster (R18).
struct Place {
    roster: Arc<Roster>,
    id: String,
    entry: String,
    text: Vec<u8>,
    left: Mutex<bool>,
}

impl Place {
    fn is_whole(&self) -> bool {
        let exists = |path: &Path| path.try_exists().unwrap_or(true);
        exists(&self.roster.socket(&self.id)) && exists(&self.roster.path.join(&self.entry))
    }

    /// Creates what is missing: the socket gets its name once it listens (R9), and then comes the entry.
    fn appear(&self, socket: &Socket) -> Result<()> {
        let (left, roster, path) = (lock(&self.left), &self.roster, self.roster.socket(&self.id));
        if *left {
            return Ok(());
        }
        if !path.try_exists().unwrap_or(true) {
            let (scratch, rights) = (roster.path.join(format!("{}.new", self.id)), roster.file_mode());
            let named = socket
                .at(&scratch, ffi::zmq_bind)
                .and_then(|()| fs::set_permissions(&scratch, fs::Permissions::from_mode(rights)))
                .and_then(|()| fs::rename(&scratch, &path));
            named.inspect_err(|_| _ = remove_ours(&scratch)).doing(format_args!("listen at {}", path.display()))?;
        }
        if !roster.path.join(&self.entry).try_exists().unwrap_or(true) {
            roster.create(&self.id, &self.entry, &self.text)?;
        }
        Ok(())
    }

    fn leave(&self) {
        if !mem::replace(&mut *lock(&self.left), true) {
            let removed =
                [self.roster.path.join(&self.entry), self.roster.socket(&self.id)].map(|path| remove_ours(&path));
            if removed.contains(&true) {
                let _ = self.roster.touch();
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The thread of a subscription.
struct Receiver {
    channel: Arc<Channel>,
    place: Arc<Place>,
    events: crossbeam_channel::Sender<Event>,
    socket: Socket,
    buffer: Vec<u8>,
    decoder: Decoder,
    member: Arc<Member>,
    pending: Vec<Gap>, // what was lost since the latest frame that had room
}

impl Receiver {
    /// Takes what arrives until the subscription ends, and then what had arrived.
    fn run(mut self) {
        while !self.channel.stop.load(Relaxed) {
            self.restore();
            if !self.take() {
                self.channel.wake.wait(self.socket.descriptor(), -1); // `take` has seen all changes
            }
        }
        while self.take() {}
    }

    /// Announces the subscription again if files of it were removed. The keeper asks for it, but only this thread may
    /// use the socket.
    fn restore(&self) {
        if self.channel.removed.swap(false, Relaxed) && self.place.appear(&self.socket).is_ok() {
            let _ = self.place.roster.touch();
        }
    }

    /// Takes some frames; returns whether there were any.
    fn take(&mut self) -> bool {
        for taken in 0..256 {
            let Some(frame) = self.socket.receive(&mut self.buffer) else {
                self.count();
                return taken > 0;
            };
            let bytes = frame.len();
            self.decoder.decode(frame);
            for gap in mem::take(&mut self.decoder.gaps) {
                self.tell(gap);
            }
            if !self.decoder.events.is_empty() {
                self.push(bytes);
            }
        }
        self.count();
        true
    }

    /// Queues the events of a frame. What has no room is counted, or waits for room.
    fn push(&mut self, bytes: usize) {
        if self.channel.overflow == Overflow::Block {
            self.wait_for_room(bytes);
        } else if !self.channel.has_room(bytes) {
            let (first, count) = (&self.decoder.events[0], self.decoder.events.len() as u64);
            let (topic, origin) = (first.topic.clone(), first.origin);
            let gap = Gap { first: first.seq, last: first.seq.saturating_add(count - 1), topic, origin };
            self.decoder.lost += count;
            if gap.first > 0 {
                self.tell(gap);
            }
            return;
        }
        self.channel.frames.fetch_add(1, Relaxed);
        self.channel.bytes.fetch_add(bytes, Relaxed);
        self.decoder.events[0].gaps = mem::take(&mut self.pending);
        for evt in self.decoder.events.drain(..) {
            let _ = self.events.send(evt); // the channel has the other end
        }
    }

    /// While it waits, it keeps serving the socket: only then can publishers join.
    fn wait_for_room(&mut self, bytes: usize) {
        while !self.channel.has_room(bytes) && !self.channel.stop.load(Relaxed) {
            self.count();
            self.restore();
            self.socket.serve();
            self.channel.wake.wait(-1, 2);
        }
    }

    /// Notes a gap, or makes the latest one longer.
    fn tell(&mut self, gap: Gap) {
        if let Some(latest) = self.pending.last_mut().filter(|latest| gap.continues(latest)) {
            latest.last = gap.last;
        } else if self.pending.len() < MOST_GAPS {
            self.pending.push(gap);
        }
    }

    fn count(&mut self) {
        let (lost, malformed) = (mem::take(&mut self.decoder.lost), mem::take(&mut self.decoder.malformed));
        self.channel.lost.fetch_add(lost, Relaxed);
        self.channel.malformed.fetch_add(malformed, Relaxed);
        self.member.add(Counter::Lost, lost);
        self.member.add(Counter::Malformed, malformed);
    }
}

/// Receives events. Drop it once you have stopped reading: it keeps its queue and, with [`Overflow::Block`],
/// stalls publishers.
///
/// A reference to it is an iterator that waits for the next event, and ends when the subscription or its bus is
/// closed and everything that had arrived was received. Threads may share it: each event goes to one of them.
pub struct Subscription {
    channel: Arc<Channel>,
    inner: Arc<Inner>,
}

impl Subscription {
    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Canceled`] if the subscription or its bus is closed and everything that had arrived was
    /// received, or the process has forked. A retry fails as well.
    pub fn receive(&self) -> Result<Event> {
        self.inner.check_fork()?;
        self.channel.events.recv().map(|evt| self.channel.taken(evt)).map_err(|_| Self::ended())
    }

    /// Waits for the next event for that long; with zero, takes what has arrived.
    ///
    /// # Errors
    ///
    /// Those of [`Subscription::receive`], and [`ErrorKind::Timeout`], which is retryable: nothing is lost.
    pub fn receive_timeout(&self, timeout: Duration) -> Result<Event> {
        self.inner.check_fork()?;
        match self.channel.events.recv_timeout(timeout) {
            Ok(evt) => Ok(self.channel.taken(evt)),
            Err(error) if error.is_timeout() => Err(Error::new(ErrorKind::Timeout, "no event arrived in time")),
            Err(_) => Err(Self::ended()),
        }
    }

    /// How many events were received from it.
    pub fn received(&self) -> u64 {
        self.channel.received.load(Relaxed)
    }

    /// How many events were lost so far: those that a full queue had no room for, here or at a publisher, and
    /// those that a broken connection took.
    pub fn lost(&self) -> u64 {
        self.channel.lost.load(Relaxed)
    }

    /// How many frames arrived that were none. Their sender has a bug.
    pub fn malformed(&self) -> u64 {
        self.channel.malformed.load(Relaxed)
    }

    /// Leaves the bus. What has arrived can still be received. Closing twice is fine.
    pub fn close(&self) {
        if self.inner.check_fork().is_ok() {
            self.inner.leave(&self.channel);
        }
    }

    fn ended() -> Error {
        Error::new(ErrorKind::Canceled, "the subscription is closed: open one")
    }
}

impl Iterator for &Subscription {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.receive()).filter(|got| !got.as_ref().is_err_and(|error| error.kind == ErrorKind::Canceled))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.close();
        if self.inner.check_fork().is_err() {
            // Nothing of the parent's may be closed here: its threads are not in this process.
            mem::forget((self.inner.clone(), self.channel.clone()));
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Subscription({}, {:?})", self.channel.id, self.inner)
    }
}

/// What [`Bus::subscribe_with`] subscribes.
#[derive(Debug, Clone, Default)]
pub struct Selection<'a> {
    /// The [`Pattern`] of the systems.
    pub system: &'a str,
    /// The [`Pattern`] of the kinds; empty for all.
    pub kind: &'a str,
    /// What happens when the queue is full.
    pub overflow: Overflow,
    /// How many frames the queue holds: events, or whole batches. The default is that of the bus.
    pub capacity: Option<usize>,
}

fn check_range(option: &str, value: usize, least: usize) -> Result<()> {
    let most = i32::MAX as usize;
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("{option} is {value}: give a number from {least} to {most}")))
}

// ------------------------------------------------------------------------------------------------------------
// Sending: an XPUB for each overflow policy, a link to each ingress, numbers, marks

const PATIENCE: Duration = Duration::from_millis(20); // how long an attempt to send may hold the lock
const REST: Duration = Duration::from_millis(200);
const DROP: usize = Overflow::Drop as usize;
const BLOCK: usize = Overflow::Block as usize;

/// The events of a topic that bear the same `settled` and `first` (W37), for which a mark tells how many they are.
struct Period {
    topic: Topic,
    origin: Arc<str>,
    generation: u64, // of the settling
    born: Option<u64>,
    first: u64,
    stamp: String,       // .born.settled.first.
    seq: Arc<AtomicU64>, // the latest number of the topic
    told: AtomicU64,     // the latest that a mark told of
}

impl Period {
    fn is_unmarked(&self) -> bool {
        let seq = self.seq.load(Relaxed);
        self.first <= seq && self.told.load(Relaxed) != seq
    }

    /// Appends a frame with the next number.
    fn push_frame(&self, to: &mut Vec<u8>, path: &str, data: &[u8]) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let (mut seq, mut micros) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (seq, micros) = (seq.format(self.seq.load(Relaxed) + 1), micros.format(time));
        for text in [&self.topic.0, path, "\0", &self.origin, ".", seq, &self.stamp, micros, "\0"] {
            to.extend_from_slice(text.as_bytes());
        }
        to.extend_from_slice(data);
    }

    /// The twin of a mark (W47); the mark is all but its first two bytes.
    fn twin(&self) -> Vec<u8> {
        let mut twin = b"\xff#".to_vec();
        self.push_frame(&mut twin, "", b"[]");
        twin
    }
}

/// Periods whose marks are to be sent, each once: the keys are addresses.
type Marks = BTreeMap<usize, Arc<Period>>;

fn put(marks: &mut Marks, period: Arc<Period>) {
    marks.insert(Arc::as_ptr(&period) as usize, period);
    if marks.len() > MAX_TOPICS {
        marks.pop_first();
    }
}

/// The connection to one ingress.
struct Link {
    overflow: Overflow,
    home: usize, // the handle of the directory in which it was listed
    epoch: u64,
    shown: u64,
    missed: u64, // the epoch that was given up, until it is shown
    full: bool,  // a frame may have been dropped, and more since
    since: Instant,
    due: Instant, // when to check it next
    pause: Duration,
    silence: Duration, // without the times at which this process was slow
}

impl Link {
    fn new(epoch: u64, overflow: Overflow, home: usize) -> Self {
        let (since, pause) = (Instant::now(), Duration::from_millis(5));
        let due = since + pause;
        Link { overflow, home, epoch, shown: 0, missed: 0, full: false, since, due, pause, silence: Duration::ZERO }
    }

    fn is_awaited(&self) -> bool {
        self.shown < self.epoch && self.missed < self.epoch
    }

    /// Begins to wait for an epoch.
    fn expect(&mut self, epoch: u64) {
        let (shown, missed, full) = (self.shown, self.missed, self.full);
        *self = Link { shown, missed, full, ..Link::new(epoch, self.overflow, self.home) };
    }

    /// Whether a joiner has had its time (R21). What we see late ourselves does not count: the machine is slow.
    fn is_over(&mut self, now: Instant, timeout: Duration) -> bool {
        if now < self.due + self.pause {
            self.silence += self.pause;
        }
        self.pause = (2 * self.pause).min(timeout / 10).clamp(Duration::from_millis(5), Duration::from_millis(50));
        self.due = now + self.pause;
        self.overflow == Overflow::Drop && (self.silence >= timeout || now >= self.since + 30 * timeout)
    }
}

/// The sending half of a bus.
struct Publisher {
    roster: Arc<Roster>,
    member: Arc<Member>,
    keeper: mpsc::Sender<()>,
    options: Options,
    sockets: [Socket; 2], // by overflow policy
    links: HashMap<String, Link>,
    counts: [usize; 2], // of links
    settled: Settled,
    origin: Arc<str>,
    topics: HashMap<Topic, Arc<Period>>,
    head: String,
    frame: Vec<u8>,
    owed: Marks,
    doubtful: Marks, // sent while somebody was in doubt
    sends: u64,
    looked_at: u64, // how many sends there were at the latest look
    awake: bool,    // whether the keeper looks soon
}

/// How far the links are up to date with the roster (R20).
#[derive(Default)]
struct Settled {
    view: Option<View>,        // at which they are settled
    listed: Option<View>,      // of the latest listing
    asof: Option<u64>,         // the time of W37
    generation: u64,           // counts
    progress: Option<Instant>, // when a joiner last answered
}

impl Publisher {
    fn new(
        roster: Arc<Roster>,
        member: Arc<Member>,
        keeper: mpsc::Sender<()>,
        context: &Context,
        options: &Options,
    ) -> Result<Self> {
        let socket = |hwm: usize, wait| {
            let more = [(ffi::SNDHWM, hwm as i32), (ffi::SNDTIMEO, wait), (ffi::RECONNECT_IVL_MAX, 5000)];
            let basic = [(ffi::XPUB_NODROP, 1), (ffi::IMMEDIATE, 1), (ffi::LINGER, 0)];
            Socket::new(context, ffi::XPUB, &[basic, more].concat())
        };
        let drop = socket(options.capacity, 0)?;
        let block = socket(options.capacity.min(BLOCK_HWM), PATIENCE.as_millis() as i32)?;
        Ok(Publisher {
            roster,
            member,
            keeper,
            options: options.clone(),
            sockets: [drop, block],
            links: HashMap::new(),
            counts: [0; 2],
            settled: Settled::default(),
            origin: "".into(),
            topics: HashMap::new(),
            head: String::new(),
            frame: Vec::new(),
            owed: Marks::new(),
            doubtful: Marks::new(),
            sends: 0,
            looked_at: 0,
            awake: false,
        })
    }

    /// Tries once, for a moment; returns whether the payload was sent.
    fn attempt(&mut self, system: &str, kind: &str, payload: &Payload<'_>) -> Result<bool> {
        self.head.clear();
        for text in [system, "\0", kind, "\0"] {
            self.head.push_str(text);
        }
        let mut period = self.topics.get(self.head.as_str()).cloned();
        let born = match &period {
            Some(period) => period.born,
            None => check_topic(system, kind).map(|()| clock())?, // before the token is compared (W8)
        };
        if self.settled.view != Some(self.roster.view()) && !self.settle()? {
            return Ok(false);
        }
        if period.as_ref().map_or(true, |period| period.generation != self.settled.generation) {
            period = Some(self.begin_period(period, born)?);
        }
        period.map_or(Ok(false), |period| self.emit(&period, payload))
    }

    /// Gives a topic the stamp of the latest settling, after a twin has told of what had the former (W48). A new
    /// topic may be one too many for the origin (W35).
    fn begin_period(&mut self, former: Option<Arc<Period>>, born: Option<u64>) -> Result<Arc<Period>> {
        if let Some(former) = former.as_ref().filter(|former| former.is_unmarked()) {
            self.send_dropping(&former.twin())?;
            if self.is_in_doubt() {
                put(&mut self.doubtful, former.clone());
            }
        } else if former.is_none() && (self.origin.is_empty() || self.topics.len() >= MAX_TOPICS) {
            self.owe_unmarked();
            self.topics.clear();
            self.origin = self.member.new_origin();
        } else if former.is_none() {
            self.send_owed(1)?;
        }
        let (topic, seq) = match former {
            Some(former) => (former.topic.clone(), former.seq.clone()),
            None => (Topic(self.head.as_str().into()), Arc::default()),
        };
        let first = seq.load(Relaxed) + 1;
        let stamp = match (born, self.settled.asof) {
            (Some(born), Some(settled)) => format!(".{born}.{settled}.{first}."),
            _ => "....".to_owned(),
        };
        let (origin, generation, told) = (self.origin.clone(), self.settled.generation, AtomicU64::new(0));
        let period = Arc::new(Period { topic, origin, generation, born, first, stamp, seq, told });
        self.topics.insert(period.topic.clone(), period.clone());
        Ok(period)
    }

    /// Sends to `block` ingresses first: what they refuse, nobody gets, and it takes no number (R24).
    fn emit(&mut self, period: &Period, payload: &Payload<'_>) -> Result<bool> {
        let mut frame = mem::take(&mut self.frame);
        frame.clear();
        period.push_frame(&mut frame, payload.path, &payload.field);
        let (size, most) = (frame.len(), self.options.max_event_bytes);
        if size > most {
            let advice = "send less, or a reference to it";
            return Err(Error::invalid(format!("the event has {size} bytes of at most {most}: {advice}")));
        }
        if self.counts[BLOCK] > 0 && !self.sockets[BLOCK].send(&frame, 0)? {
            return Ok(false);
        }
        self.send_dropping(&frame)?;
        period.seq.fetch_add(payload.events, Relaxed);
        self.sends += 1;
        if !mem::replace(&mut self.awake, true) {
            let _ = self.keeper.send(());
        }
        self.frame = frame;
        Ok(true)
    }

    /// Sends a frame to `drop` links. If one has no room for it, nobody knows what else that link misses, until its
    /// peer has read everything (R57).
    fn send_dropping(&mut self, frame: &[u8]) -> Result<()> {
        let socket = &self.sockets[DROP];
        if self.counts[DROP] == 0 || socket.send(frame, ffi::DONTWAIT)? {
            return Ok(());
        }
        socket.serve(); // there may be news of room
        if socket.send(frame, ffi::DONTWAIT)? {
            return Ok(());
        }
        self.links.values_mut().for_each(|link| link.full = link.overflow == Overflow::Drop);
        socket.set(ffi::XPUB_NODROP, &0i32.to_ne_bytes());
        let sent = socket.send(frame, ffi::DONTWAIT);
        socket.set(ffi::XPUB_NODROP, &1i32.to_ne_bytes());
        sent.map(drop)
    }

    /// Brings the links up to date with the roster (R20), for a moment; returns whether that is done.
    fn settle(&mut self) -> Result<bool> {
        let until = Instant::now() + PATIENCE;
        loop {
            let (asof, view) = (clock(), self.roster.view());
            if self.settled.listed != Some(view) {
                if !self.roster.is_current() {
                    return Ok(false); // the bus follows, and tries again
                }
                self.list(view.0)?;
                self.settled.listed = Some(view);
            }
            self.read_subscriptions();
            self.check_awaited();
            if self.links.values().any(Link::is_awaited) {
                if Instant::now() >= until {
                    return Ok(false);
                }
                poll(&self.sockets, 5);
            } else if self.settled.listed.is_some() && self.roster.view() == view {
                (self.settled.asof, self.settled.view) = (asof, Some(view));
                self.settled.generation += 1;
                return Ok(true);
            }
        }
    }

    /// Connects the ingresses that are new on the roster, and lets go of those that are gone. Those that are listed in
    /// a former directory, and still there, have yet to move to this one (R39).
    fn list(&mut self, home: usize) -> Result<()> {
        let entries = self.roster.entries()?;
        let is_gone = |id: &String, link: &Link| !entries.contains_key(id) && (link.home == home || link.shown == 0);
        let gone: Vec<_> = self.links.iter().filter(|(id, link)| is_gone(id, link)).map(|(id, _)| id.clone()).collect();
        gone.iter().for_each(|id| self.unlink(id));
        for (id, (epoch, overflow)) in entries {
            match self.links.get_mut(&id) {
                Some(link) => {
                    link.home = home;
                    if epoch > link.epoch {
                        link.expect(epoch);
                    }
                }
                None if answers(&self.roster.socket(&id)) => {
                    let path = self.roster.socket(&id);
                    let socket = &self.sockets[overflow as usize];
                    socket.at(&path, ffi::zmq_connect).doing(format_args!("connect to {}", path.display()))?;
                    self.counts[overflow as usize] += 1;
                    self.links.insert(id, Link::new(epoch, overflow, home));
                }
                None => self.roster.bury(&id),
            }
        }
        Ok(())
    }

    fn unlink(&mut self, id: &str) {
        if let Some(link) = self.links.remove(id) {
            let _ = self.sockets[link.overflow as usize].at(&self.roster.socket(id), ffi::zmq_disconnect);
            self.counts[link.overflow as usize] -= 1;
        }
    }

    /// Reads what peers have subscribed to; only the sentinels matter here (W25).
    fn read_subscriptions(&mut self) {
        for socket in &self.sockets {
            while let Some(message) = socket.receive(&mut [0; 64]) {
                let Some((&added, topic)) = message.split_first() else { continue };
                let Some((id, epoch)) = parse_sentinel(topic) else { continue };
                let Some(link) = self.links.get_mut(&id) else { continue };
                if added == 1 {
                    link.shown = link.shown.max(epoch);
                    self.settled.progress = Some(Instant::now());
                    if link.missed > 0 && link.missed <= link.shown {
                        link.missed = 0;
                        self.owed.append(&mut self.doubtful);
                    }
                } else if epoch == link.shown {
                    link.shown = 0; // the connection has ended
                    link.expect(link.epoch);
                    self.settled.view = None;
                }
            }
        }
    }

    /// Checks the links that are awaited: the dead are buried, and those whose time is over are given up (R21).
    fn check_awaited(&mut self) {
        let (now, mut dead) = (Instant::now(), Vec::new());
        for (id, link) in self.links.iter_mut().filter(|(_, link)| link.is_awaited() && now >= link.due) {
            if !answers(&self.roster.socket(id)) {
                dead.push(id.clone());
            } else if link.is_over(now, self.options.join_timeout) {
                link.missed = link.epoch;
                self.member.add(Counter::JoinTimeouts, 1);
            }
        }
        for id in dead {
            self.roster.bury(&id);
            self.unlink(&id);
            self.settled.listed = None; // even if nothing could be removed (R33)
        }
    }

    fn is_in_doubt(&self) -> bool {
        self.links.values().any(|link| link.full || link.missed > 0)
    }

    /// Sends the marks that are due, if nothing was sent since the last look (W46, R58); returns when to look again.
    fn look(&mut self) -> Result<Duration> {
        let idle = self.sends == self.looked_at;
        self.looked_at = self.sends;
        self.read_subscriptions();
        self.check_doubt();
        if idle {
            self.owe_unmarked();
        }
        if !self.send_owed(1000)? {
            return Ok(Duration::from_millis(5));
        }
        self.awake = !idle || self.is_in_doubt();
        if self.awake {
            return Ok(REST);
        }
        self.doubtful.clear();
        Ok(Duration::from_secs(1))
    }

    fn owe_unmarked(&mut self) {
        for period in self.topics.values().filter(|period| period.is_unmarked()) {
            put(&mut self.owed, period.clone());
        }
    }

    /// Looks for full links that have read everything (R57).
    fn check_doubt(&mut self) {
        if !self.links.values().any(|link| link.full) {
            return;
        }
        let before = naps();
        let behind: HashSet<_> =
            connections().filter(|(socket, _)| has_unread(socket)).map(|(_, ingress)| ingress).collect();
        if before.is_none() || naps() != before {
            return;
        }
        self.sockets[DROP].serve(); // only now does libzmq use those links again
        for (_, link) in self.links.iter_mut().filter(|(id, link)| link.full && !behind.contains(*id)) {
            link.full = false;
            self.owed.append(&mut self.doubtful);
        }
    }

    /// Sends marks, so many at most, as far as there is room; returns whether none is left.
    fn send_owed(&mut self, most: usize) -> Result<bool> {
        for _ in 0..most {
            let Some((_, period)) = self.owed.first_key_value() else { break };
            let (period, twin) = (period.clone(), period.twin());
            self.send_dropping(&twin[2..])?;
            self.send_dropping(&twin)?;
            self.owed.pop_first();
            period.told.store(period.seq.load(Relaxed), Relaxed);
            if self.is_in_doubt() {
                put(&mut self.doubtful, period);
            }
        }
        Ok(self.owed.is_empty())
    }

    /// What a send waited for.
    fn obstacle(&self) -> String {
        match self.links.iter().find(|(_, link)| link.is_awaited()) {
            Some((id, _)) => format!("subscriber {id} did not finish joining"),
            None => "a full 'block' subscriber made no room".to_owned(),
        }
    }

    /// Sends the last marks (R59), and closes the sockets. Returns duplicates of the connections, which keep them
    /// open: libzmq drops what the kernel still holds when a full reader sees the end of a connection (R25).
    fn close(mut self, deadline: Instant) -> Vec<UnixStream> {
        loop {
            self.check_doubt();
            self.owe_unmarked();
            let told = self.send_owed(MAX_TOPICS).unwrap_or(true) && !self.links.values().any(|link| link.full);
            if told || Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let spoken = |id: &String| self.links.get(id).is_some_and(|link| link.shown > 0);
        let held = connections().filter(|(_, id)| spoken(id)).filter_map(|(socket, _)| socket.try_clone().ok());
        let held = held.collect();
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let linger = i32::try_from(left).unwrap_or(i32::MAX).to_ne_bytes();
        self.sockets.iter().for_each(|socket| socket.set(ffi::LINGER, &linger));
        held
    }
}

// ------------------------------------------------------------------------------------------------------------
// The bus

/// How to open a bus.
///
/// ```no_run
/// # use zbus_events::{Error, Options};
/// # fn main() -> Result<(), Error> {
/// let bus = Options { bus: "workshop".into(), capacity: 1000, ..Options::default() }.open()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// The name of the bus. The default is `$ZBUS_BUS`, or "default".
    pub bus: String,
    /// The root of all buses. The default is `$ZBUS_DIR`, or a directory of the user.
    pub directory: Option<PathBuf>,
    /// How many frames may wait in a subscription, and here for each subscriber. The default is 65,536.
    pub capacity: usize,
    /// The size of a frame, at least 276 bytes. All peers of a bus must agree. The default is 16 MiB.
    pub max_event_bytes: usize,
    /// How long a send waits. The default is 5 s.
    pub send_timeout: Duration,
    /// How long a send waits for a subscriber that does not finish joining. The default is 1 s.
    pub join_timeout: Duration,
    /// How long closing waits until others have read what was sent. The default is 1 s.
    pub linger: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            bus: variable("ZBUS_BUS").map_or("default".into(), |name| name.to_string_lossy().into_owned()),
            directory: None,
            capacity: 65_536,
            max_event_bytes: 16 << 20,
            send_timeout: Duration::from_secs(5),
            join_timeout: Duration::from_secs(1),
            linger: Duration::from_secs(1),
        }
    }
}

impl Options {
    /// Opens the bus, and creates its directory if nobody has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] (an option), [`ErrorKind::PermissionDenied`] (the directory is not safe to use, or
    /// belongs to somebody else), and [`ErrorKind::Unavailable`] (the operating system refused something). Only
    /// the last may be retryable.
    pub fn open(self) -> Result<Bus> {
        check_range("capacity", self.capacity, 1)?;
        check_range("max_event_bytes", self.max_event_bytes, 276)?;
        Inner::open(self).map(|inner| Bus { inner })
    }
}

/// This process's place on a bus. Dropping it leaves the bus: it ends the subscriptions (what has arrived can still
/// be received), and waits until others have read what was sent, for at most the linger.
///
/// Drop it before the program ends, and not by [`std::process::exit`]: what was sent may otherwise not leave the
/// process.
#[derive(Debug)]
pub struct Bus {
    inner: Arc<Inner>,
}

impl Bus {
    /// Opens the default bus; see [`Options`] for others.
    ///
    /// # Errors
    ///
    /// Those of [`Options::open`].
    pub fn open() -> Result<Self> {
        Options::default().open()
    }

    /// Sends one event to every subscription that selects it. No subscriber is not an error. The data is sent as
    /// JSON; `&()` and other nulls are no data. It waits while a subscriber joins, and while an [`Overflow::Block`]
    /// subscriber has no room.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] (names, path or data cannot be sent), [`ErrorKind::Timeout`] (retryable: it reached
    /// nobody), [`ErrorKind::Canceled`] (the bus is closed), and [`ErrorKind::Unavailable`].
    pub fn send<T: Serialize + ?Sized>(&self, system: &str, kind: &str, path: &str, data: &T) -> Result<()> {
        self.inner.publish(system, kind, &Payload::json(path, data)?)
    }

    /// Sends raw bytes, as [`Bus::send`] sends JSON.
    ///
    /// # Errors
    ///
    /// Those of [`Bus::send`].
    pub fn send_bytes(&self, system: &str, kind: &str, path: &str, data: &[u8]) -> Result<()> {
        self.inner.publish(system, kind, &Payload::bytes(path, data)?)
    }

    /// Sends several events of one topic, paths and data, as one frame: they arrive, or are lost, together. That is
    /// several times cheaper than single events.
    ///
    /// # Errors
    ///
    /// Those of [`Bus::send`]. If there is one, nothing was sent.
    pub fn send_many<'a, T, I>(&self, system: &str, kind: &str, items: I) -> Result<()>
    where
        T: Serialize + 'a,
        I: IntoIterator<Item = (&'a str, &'a T)>,
    {
        self.inner.publish(system, kind, &Payload::batch(items)?)
    }

    /// Subscribes to the systems that a [`Pattern`] selects, with all kinds and the defaults.
    ///
    /// # Errors
    ///
    /// Those of [`Bus::subscribe_with`].
    pub fn subscribe(&self, system: &str) -> Result<Subscription> {
        self.subscribe_with(&Selection { system, ..Selection::default() })
    }

    /// Subscribes. Every event that any process sends after that reaches the subscription.
    ///
    /// ```no_run
    /// # use zbus_events::{Bus, Error, Selection};
    /// # fn main() -> Result<(), Error> {
    /// # let bus = Bus::open()?;
    /// let sub = bus.subscribe_with(&Selection { system: "orders", kind: "order.*", ..Selection::default() })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] (a pattern, the capacity), [`ErrorKind::Canceled`] (the bus is closed),
    /// [`ErrorKind::PermissionDenied`] and [`ErrorKind::Unavailable`]. Only the last may be retryable.
    pub fn subscribe_with(&self, selection: &Selection<'_>) -> Result<Subscription> {
        self.inner.subscribe(selection)
    }

    /// Leaves the bus, as dropping it does. Closing twice is fine.
    pub fn close(&self) {
        if self.inner.check_fork().is_ok() {
            self.inner.close();
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.close();
        if self.inner.check_fork().is_err() {
            mem::forget(self.inner.clone());
        }
    }
}

struct Inner {
    options: Options,
    forks: u32,                          // when it was opened
    publisher: Mutex<Option<Publisher>>, // until the bus is closed
    state: Mutex<Option<State>>,         // likewise
    member: Arc<Member>,
    roster: Arc<Roster>,
}

struct State {
    listeners: Vec<Listener>,
    keeper: Option<JoinHandle<()>>,
    context: Context, // ends after all else
}

struct Listener {
    place: Arc<Place>,
    channel: Arc<Channel>,
    thread: JoinHandle<()>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}", self.roster.path.display())
    }
}

impl Inner {
    fn open(options: Options) -> Result<Arc<Self>> {
        watch_forks();
        let by_default = options.directory.is_none() && variable("ZBUS_DIR").is_none();
        let root = options.directory.clone().unwrap_or_else(default_root);
        let roster = Arc::new(Roster::open(&root, &options.bus, by_default)?);
        let member = Arc::new(Member::create(&roster)?);
        let (wake, woken) = mpsc::channel();
        // SAFETY: it has no conditions.
        let context = Context(unsafe { ffi::zmq_ctx_new() });
        let publisher = Publisher::new(roster.clone(), member.clone(), wake, &context, &options)?;
        roster.reap();
        let inner = Arc::new(Inner {
            options,
            forks: FORKS.load(Relaxed),
            publisher: Mutex::new(Some(publisher)),
            state: Mutex::new(Some(State { listeners: Vec::new(), keeper: None, context })),
            member,
            roster,
        });
        let weak = Arc::downgrade(&inner);
        let keeper = spawn("zbus-keeper", move || keep(&weak, &woken))?;
        if let Some(state) = &mut *lock(&inner.state) {
            state.keeper = Some(keeper);
        }
        Ok(inner)
    }

    fn check_fork(&self) -> Result<()> {
        if FORKS.load(Relaxed) == self.forks {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Canceled, "this bus belongs to the parent process: open one after the fork"))
    }

    /// Tries until the payload is sent or time is over.
    fn publish(&self, system: &str, kind: &str, payload: &Payload<'_>) -> Result<()> {
        self.check_fork()?;
        if payload.events == 0 {
            return check_topic(system, kind);
        }
        let mut begun = None;
        loop {
            let mut guard = lock(&self.publisher);
            let publisher = guard.as_mut().ok_or_else(Error::closed)?;
            if publisher.attempt(system, kind, payload)? {
                return Ok(());
            }
            let (timeout, now) = (self.options.send_timeout, Instant::now());
            let begun = *begun.get_or_insert(now);
            // Time does not count while joiners answer (R43).
            let progress = publisher.settled.progress.filter(|at| (begun..begun + 30 * timeout).contains(at));
            if now >= progress.unwrap_or(begun) + timeout {
                self.member.add(Counter::SendTimeouts, 1);
                let why = publisher.obstacle();
                let message = format!("{why} within {timeout:?}: the event was sent to nobody");
                return Err(Error::new(ErrorKind::Timeout, message));
            }
            drop(guard);
            thread::yield_now(); // others want the lock, too
            self.restore(lock(&self.state).as_ref(), true)?;
        }
    }

    /// Joins (R16): listen, then the entry, then the token. What was done is undone if something fails.
    fn subscribe(self: &Arc<Self>, wanted: &Selection<'_>) -> Result<Subscription> {
        let system: Pattern = wanted.system.parse()?;
        let kind: Option<Pattern> = Some(wanted.kind).filter(|kind| !kind.is_empty()).map(str::parse).transpose()?;
        let capacity = wanted.capacity.unwrap_or(self.options.capacity);
        check_range("capacity", capacity, 1)?;
        self.check_fork()?;
        let mut state = lock(&self.state);
        let state = state.as_mut().ok_or_else(Error::closed)?;
        self.restore(Some(state), true)?;
        let (id, roster) = (new_id(), &self.roster);
        let hwm = match wanted.overflow {
            Overflow::Drop => capacity.max(LEAST_HWM),
            Overflow::Block => capacity.min(BLOCK_HWM),
        };
        let socket = self.ingress(&state.context, &id, hwm, &Pattern::prefixes(&system, kind.as_ref()))?;
        let pattern = [wanted.system, if kind.is_some() { wanted.kind } else { "*" }, wanted.overflow.name()];
        let more = [("member", json!(self.member.id)), ("patterns", json!([pattern])), ("channels", json!(1))];
        let place = Arc::new(Place {
            roster: roster.clone(),
            id: id.clone(),
            entry: format!("{id}.1.{}", wanted.overflow.name()),
            text: describe(more),
            left: Mutex::new(false),
        });
        place.appear(&socket)?;
        let announced = clock();
        roster.touch()?;
        let decoder = Decoder::new(system, kind, announced, clock(), MAX_TOPICS);
        let (events, taken) = crossbeam_channel::unbounded();
        let channel = Arc::new(Channel {
            id,
            overflow: wanted.overflow,
            capacity,
            wake: Wake::new()?,
            stop: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            events: taken,
            frames: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
        });
        let (buffer, member, pending) = (vec![0; self.options.max_event_bytes], self.member.clone(), Vec::new());
        let receiver = Receiver {
            channel: channel.clone(),
            place: place.clone(),
            events,
            socket,
            buffer,
            decoder,
            member,
            pending,
        };
        let thread = spawn("zbus-receiver", move || receiver.run())?;
        state.listeners.push(Listener { place, channel: channel.clone(), thread });
        if state.listeners.len() == 1 {
            roster.reap();
        }
        Ok(Subscription { channel, inner: self.clone() })
    }

    /// Makes the socket of a subscription.
    fn ingress(&self, context: &Context, id: &str, hwm: usize, prefixes: &[Vec<u8>]) -> Result<Socket> {
        let options = [(ffi::LINGER, 0), (ffi::SNDHWM, 0), (ffi::RCVHWM, hwm as i32), (ffi::BACKLOG, 4096)];
        let socket = Socket::new(context, ffi::SUB, &options)?;
        socket.set(ffi::MAXMSGSIZE, &(self.options.max_event_bytes as i64).to_ne_bytes());
        for prefix in prefixes {
            socket.set(ffi::SUBSCRIBE, prefix);
        }
        socket.set(ffi::SUBSCRIBE, &[&[CONTROL], id.as_bytes(), b".1"].concat());
        Ok(socket)
    }

    /// Ends a subscription, once.
    fn leave(&self, channel: &Arc<Channel>) {
        let listener = lock(&self.state).as_mut().and_then(|state| {
            let at = state.listeners.iter().position(|own| Arc::ptr_eq(&own.channel, channel))?;
            Some(state.listeners.swap_remove(at))
        });
        if let Some(Listener { place, channel, thread }) = listener {
            place.leave();
            channel.end();
            let _ = thread.join();
        }
    }

    fn close(&self) {
        let Some(state) = lock(&self.state).take() else { return };
        state.listeners.iter().for_each(|own| own.place.leave());
        let deadline = Instant::now() + self.options.linger;
        let publisher = lock(&self.publisher).take();
        let held = publisher.map_or(Vec::new(), |publisher| publisher.close(deadline));
        for own in state.listeners {
            own.channel.end();
            let _ = own.thread.join();
        }
        drop(state.context);
        for socket in held {
            while has_unread(&socket) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        }
        if let Some(keeper) = state.keeper {
            let _ = keeper.join();
        }
        remove_ours(&self.member.path);
    }

    /// Is found again if somebody has removed or replaced the directory, the token, or files of this process (R36 to
    /// R38). It creates a directory only if asked to.
    fn restore(&self, state: Option<&State>, create: bool) -> Result<()> {
        let Some(state) = state else { return Ok(()) };
        if !create && !self.roster.path.try_exists().unwrap_or(true) {
            return Ok(()); // nobody has a use for it
        }
        if self.roster.follow()? | self.member.restore(&self.roster)? {
            self.roster.touch()?;
        }
        for own in state.listeners.iter().filter(|own| !own.place.is_whole()) {
            own.channel.removed.store(true, Relaxed);
            own.channel.wake.signal();
        }
        Ok(())
    }
}

/// Looks whether the publisher is at rest, when it is due, and at least once a second whether others find this
/// process (R37).
fn keep(bus: &Weak<Inner>, woken: &mpsc::Receiver<()>) {
    let mut pause = Duration::from_secs(1);
    while !matches!(woken.recv_timeout(pause), Err(mpsc::RecvTimeoutError::Disconnected)) {
        let Some(inner) = bus.upgrade() else { return };
        let looked = lock(&inner.publisher).as_mut().map(Publisher::look);
        pause = looked.and_then(Result::ok).unwrap_or(REST);
        let _ = inner.restore(lock(&inner.state).as_ref(), false); // the next call says what is wrong
    }
}

/// Starts a thread. Its stack has room for the deepest JSON, in a debug build too.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(8 << 20).spawn(run).doing("start a thread")
}
