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
//! for evt in sub {
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
//!
//! The file is ordered like a book: events and errors, names and JSON, patterns, loss, the directory, the
//! kernel, libzmq, receiving, sending, and the bus.
#![deny(missing_docs)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::de::Deserialize;
use serde::ser::{self, Serialize};

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    None,
    Json,
    Bytes,
}

/// One event as it was received.
#[derive(Debug, Clone)]
pub struct Event {
    /// What was lost of the subscription's events since the event before this one. Each gap is of one stream.
    pub gaps: Vec<Gap>,
    topic: Arc<Heard>,
    frame: Arc<[u8]>,
    path: (u32, u32),
    escaped_path: Option<Box<str>>,
    data: (u32, u32),
    form: Form,
    origin: Origin,
    seq: u64,
    time: Option<u64>,
}

impl Event {
    /// The system that the event is about.
    pub fn system(&self) -> &str {
        &self.topic.system
    }

    /// The kind of event.
    pub fn kind(&self) -> &str {
        &self.topic.kind
    }

    /// The path of what the event is about.
    pub fn path(&self) -> &str {
        match &self.escaped_path {
            Some(path) => path,
            None => self.text(self.path),
        }
    }

    /// The data: JSON text, raw bytes, or none.
    pub fn data(&self) -> Data<'_> {
        match self.form {
            Form::None => Data::None,
            Form::Json => Data::Json(self.text(self.data)),
            Form::Bytes => Data::Bytes(self.part(self.data)),
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
        T::deserialize(&mut parser).map_err(|cause| Error {
            source: Some(Arc::new(cause)),
            ..Error::invalid(format!("the data of {} {} does not fit the type asked for", self.system(), self.kind()))
        })
    }

    /// Who sent it: an id of the sender's bus object, empty if untold.
    pub fn origin(&self) -> &str {
        self.origin.as_str()
    }

    /// Its number among the events of this origin, system and kind, from 1; 0 if untold.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When it was sent, if told.
    pub fn time(&self) -> Option<SystemTime> {
        self.time.and_then(|micros| UNIX_EPOCH.checked_add(Duration::from_micros(micros)))
    }

    fn part(&self, (start, end): (u32, u32)) -> &[u8] {
        &self.frame[start as usize..end as usize]
    }

    fn text(&self, range: (u32, u32)) -> &str {
        // SAFETY: the decoder has validated the text of each path and of all JSON before it made the event.
        unsafe { std::str::from_utf8_unchecked(self.part(range)) }
    }
}

/// Events that were sent to a subscription and lost: numbers `first` to `last` of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Who sent them.
    pub origin: Origin,
    /// Their system.
    pub system: String,
    /// Their kind.
    pub kind: String,
    /// The number of the first event that was lost.
    pub first: u64,
    /// The number of the last event that was lost.
    pub last: u64,
}

impl Gap {
    /// How many events it has.
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// The id of a sender: 8 to 16 hex digits, or empty if untold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Origin([u8; 16]);

impl Origin {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|&digit| digit == 0).unwrap_or(16);
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:?}", self.as_str())
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
        Error { kind, message: message.into(), retryable: false, source: None }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    fn timeout(message: impl Into<String>) -> Self {
        Error { retryable: true, ..Self::new(ErrorKind::Timeout, message) }
    }

    fn canceled(what: &str) -> Self {
        Self::new(ErrorKind::Canceled, format!("{what} is closed"))
    }

    fn denied(path: &Path, why: impl fmt::Display) -> Self {
        Self::new(ErrorKind::PermissionDenied, format!("{} {why}", path.display()))
    }

    /// An error of the operating system. It is retryable if it is a shortage.
    fn system(doing: impl fmt::Display, cause: io::Error) -> Self {
        let code = cause.raw_os_error().unwrap_or(0);
        let soon = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOSPC, libc::EDQUOT, libc::EAGAIN, libc::ENOBUFS];
        let kind = match code {
            libc::EACCES | libc::EPERM => ErrorKind::PermissionDenied,
            _ => ErrorKind::Unavailable,
        };
        Error {
            kind,
            message: format!("cannot {doing}: {cause}"),
            retryable: soon.contains(&code),
            source: Some(Arc::new(cause)),
        }
    }
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// Locks, whether or not a thread has panicked with the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

// ------------------------------------------------------------------------------------------------------------
// Names and stamps

const CONTROL: u8 = 0xff; // the first byte of the bus's own frames (W13)
const MAX_GAP: u64 = 1 << 40; // W41
const MAX_TOPICS: usize = 65_536; // W34, W35
const LEAST_MAXIMUM: usize = 276; // W14

/// Says what is wrong with a system or kind (W3).
fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is required")
    } else if name.contains('\0') {
        Some("contains NUL, which separates fields: remove it")
    } else if name.contains(['*', '(', ')', '|']) {
        Some("contains one of '*()|', which only a subscription may use: send a literal name")
    } else if name.starts_with('.') || name.ends_with('.') || name.contains("..") {
        Some("has an empty segment: use single dots between words")
    } else {
        None
    }
}

fn check_topic(system: &str, kind: &str) -> Result<()> {
    for (field, name) in [("system", system), ("kind", kind)] {
        match name_fault(name) {
            Some(why) if name.is_empty() => return Err(Error::invalid(format!("{field} {why}"))),
            Some(why) => return Err(Error::invalid(format!("{field} {name:?} {why}"))),
            None => {}
        }
    }
    if system == "zbus" || system.starts_with("zbus.") {
        return Err(Error::invalid(format!(
            "system {system:?} is reserved for events of the bus itself: choose another name"
        )));
    }
    Ok(())
}

fn check_path(path: &str) -> Result<()> {
    if path.is_empty() {
        Err(Error::invalid("path is required"))
    } else if path.contains('\0') {
        Err(Error::invalid(format!("path {path:?} contains NUL, which separates fields: remove it")))
    } else {
        Ok(())
    }
}

/// The numbers and times of a frame (W5). What is `None` was not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Who sent it.
    pub origin: Origin,
    /// The number of the frame's first event; 0 if the frame has no stamp.
    pub seq: u64,
    /// When the origin began to number the topic, in microseconds of CLOCK_MONOTONIC.
    pub born: Option<u64>,
    /// When the publisher knew who listens, in microseconds of CLOCK_MONOTONIC.
    pub settled: Option<u64>,
    /// The first number that the publisher sent since.
    pub first: Option<u64>,
    /// When the frame was sent, in microseconds of CLOCK_REALTIME.
    pub time: Option<u64>,
}

impl Stamp {
    /// Reads a stamp; an empty one has `seq` 0.
    fn parse(raw: &[u8]) -> Option<Self> {
        if raw.is_empty() {
            return Some(Stamp::default());
        }
        let mut fields = raw.split(|&byte| byte == b'.');
        let origin = fields.next().filter(|id| is_id(id, 8, 16))?;
        let seq = fields.next().and_then(number).filter(|&seq| seq > 0)?;
        let mut padded = [0; 16];
        padded[..origin.len()].copy_from_slice(origin);
        let mut next = || fields.next().and_then(number);
        Some(Stamp { origin: Origin(padded), seq, born: next(), settled: next(), first: next(), time: next() })
    }
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

fn push_number(to: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    to.extend_from_slice(&digits[start..]);
}

fn random() -> [u8; 8] {
    let mut raw = [0; 8];
    let mut got = 0;
    while got < raw.len() {
        // SAFETY: the buffer has that much room.
        let rc = unsafe { libc::getrandom(raw[got..].as_mut_ptr().cast(), raw.len() - got, 0) };
        got += usize::try_from(rc).unwrap_or(0);
    }
    raw
}

fn new_id() -> String {
    format!("{:016x}", u64::from_ne_bytes(random()))
}

// ------------------------------------------------------------------------------------------------------------
// JSON: exactly what every receiver takes (W51), in one pass

const MAX_DEPTH: usize = 1024;

/// Whether UTF-8 text is one JSON value, inside `depth` arrays and objects.
fn is_json(text: &str, depth: usize) -> bool {
    let raw = text.as_bytes();
    scan_value(raw, skip_space(raw, 0), depth).is_some_and(|end| skip_space(raw, end) == raw.len())
}

fn skip_space(raw: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\t' | b'\r') = raw.get(at) {
        at += 1;
    }
    at
}

/// Returns where the value that begins at `at` ends. So do the other scan functions.
fn scan_value(raw: &[u8], at: usize, depth: usize) -> Option<usize> {
    match *raw.get(at)? {
        b'"' => scan_string(raw, at),
        b'{' | b'[' => scan_container(raw, at, depth + 1),
        b't' => scan_word(raw, at, b"true"),
        b'f' => scan_word(raw, at, b"false"),
        b'n' => scan_word(raw, at, b"null"),
        _ => scan_number(raw, at),
    }
}

fn scan_word(raw: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    raw[at..].starts_with(word).then_some(at + word.len())
}

fn scan_container(raw: &[u8], at: usize, depth: usize) -> Option<usize> {
    if depth > MAX_DEPTH {
        return None;
    }
    let object = raw[at] == b'{';
    let closing = raw[at] + 2; // in ASCII, both closing brackets are two after the opening ones
    let mut at = skip_space(raw, at + 1);
    if *raw.get(at)? == closing {
        return Some(at + 1);
    }
    loop {
        if object {
            if *raw.get(at)? != b'"' {
                return None;
            }
            at = skip_space(raw, scan_string(raw, at)?);
            if *raw.get(at)? != b':' {
                return None;
            }
            at = skip_space(raw, at + 1);
        }
        at = skip_space(raw, scan_value(raw, at, depth)?);
        match *raw.get(at)? {
            byte if byte == closing => return Some(at + 1),
            b',' => at = skip_space(raw, at + 1),
            _ => return None,
        }
    }
}

fn scan_string(raw: &[u8], mut at: usize) -> Option<usize> {
    at += 1;
    loop {
        match *raw.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at = scan_escape(raw, at)?,
            0..=0x1f => return None,
            _ => at += 1,
        }
    }
}

fn scan_escape(raw: &[u8], at: usize) -> Option<usize> {
    match *raw.get(at + 1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 2),
        b'u' => match hex4(raw, at)? {
            0xd800..=0xdbff => matches!(hex4(raw, at + 6)?, 0xdc00..=0xdfff).then_some(at + 12),
            0xdc00..=0xdfff => None,
            _ => Some(at + 6),
        },
        _ => None,
    }
}

/// Returns the number in the `\uXXXX` at `at`.
fn hex4(raw: &[u8], at: usize) -> Option<u32> {
    let escape = raw.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
    escape[2..].iter().try_fold(0, |value, &c| Some(value << 4 | char::from(c).to_digit(16)?))
}

fn scan_number(raw: &[u8], start: usize) -> Option<usize> {
    let mut at = start + usize::from(raw.get(start) == Some(&b'-'));
    at = if raw.get(at) == Some(&b'0') { at + 1 } else { scan_digits(raw, at)? };
    if raw.get(at) == Some(&b'.') {
        at = scan_digits(raw, at + 1)?;
    }
    let mut exponent = 0;
    if let Some(b'e' | b'E') = raw.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = raw.get(at) {
            at += 1;
        }
        let digits = at;
        at = scan_digits(raw, at)?;
        exponent = at - digits;
    }
    // Otherwise it cannot be infinite.
    if exponent >= 3 || at - start >= 200 {
        let value: f64 = std::str::from_utf8(&raw[start..at]).ok()?.parse().ok()?;
        return value.is_finite().then_some(at);
    }
    Some(at)
}

fn scan_digits(raw: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while raw.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    (at > start).then_some(at)
}

/// Where the path of a batch's item is, without its quotes, and its data, if any.
type ItemRange = ((usize, usize), Option<(usize, usize)>);

/// Finds the items of a batch (W12).
fn scan_items(raw: &[u8]) -> Option<Vec<ItemRange>> {
    let mut items = Vec::new();
    let mut at = skip_space(raw, 0);
    if *raw.get(at)? != b'[' {
        return None;
    }
    at = skip_space(raw, at + 1);
    if *raw.get(at)? == b']' {
        return (skip_space(raw, at + 1) == raw.len()).then_some(items);
    }
    loop {
        let item;
        (item, at) = scan_item(raw, at)?;
        items.push(item);
        at = skip_space(raw, at);
        match *raw.get(at)? {
            b']' => return (skip_space(raw, at + 1) == raw.len()).then_some(items),
            b',' => at = skip_space(raw, at + 1),
            _ => return None,
        }
    }
}

fn scan_item(raw: &[u8], at: usize) -> Option<(ItemRange, usize)> {
    if *raw.get(at)? != b'[' {
        return None;
    }
    let start = skip_space(raw, at + 1);
    if *raw.get(start)? != b'"' {
        return None;
    }
    let end = scan_string(raw, start)?;
    let mut at = skip_space(raw, end);
    let mut data = None;
    if *raw.get(at)? == b',' {
        let start = skip_space(raw, at + 1);
        let end = scan_value(raw, start, 2)?;
        data = Some((start, end));
        at = skip_space(raw, end);
    }
    (*raw.get(at)? == b']').then_some((((start + 1, end - 1), data), at + 1))
}

/// Writes JSON, and notes what must be looked at again: serde_json writes NaN as null, and raw text as it is.
struct Careful<'a> {
    depth: usize,
    deepest: usize,
    null: &'a mut bool,
    raw: &'a mut bool,
}

impl Careful<'_> {
    fn deeper(&mut self) -> io::Result<()> {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        if self.depth > MAX_DEPTH {
            return Err(io::Error::other("it is more than 1,024 levels deep"));
        }
        Ok(())
    }
}

impl serde_json::ser::Formatter for Careful<'_> {
    fn write_null<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        *self.null = true;
        to.write_all(b"null")
    }

    fn write_number_str<W: ?Sized + Write>(&mut self, to: &mut W, value: &str) -> io::Result<()> {
        *self.raw = true;
        to.write_all(value.as_bytes())
    }

    fn write_raw_fragment<W: ?Sized + Write>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        *self.raw = true;
        to.write_all(fragment.as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.deeper()?;
        to.write_all(b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.depth -= 1;
        to.write_all(b"]")
    }

    fn begin_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.deeper()?;
        to.write_all(b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.depth -= 1;
        to.write_all(b"}")
    }
}

/// Appends a value as JSON; null counts as no data, and leaves nothing. `depth` is how deep it will lie.
fn push_json<T: Serialize + ?Sized>(to: &mut Vec<u8>, data: &T, depth: usize) -> Result<()> {
    let start = to.len();
    let (mut null, mut raw) = (false, false);
    let careful = Careful { depth, deepest: depth, null: &mut null, raw: &mut raw };
    let mut serializer = serde_json::Serializer::with_formatter(&mut *to, careful);
    let wrong = |cause: serde_json::Error| Error {
        source: Some(Arc::new(io::Error::other(cause.to_string()))),
        ..Error::invalid(format!("the data cannot be sent as JSON: {cause}"))
    };
    data.serialize(&mut serializer).map_err(wrong)?;
    if null {
        data.serialize(Finite).map_err(wrong)?;
    }
    if raw && !std::str::from_utf8(&to[start..]).is_ok_and(|text| is_json(text, depth)) {
        return Err(Error::invalid(
            "the data is not the JSON that every receiver takes (RFC 8259; finite numbers, whole surrogate pairs, at most 1,024 deep)",
        ));
    }
    if &to[start..] == b"null" {
        to.truncate(start);
    }
    Ok(())
}

/// A serializer that only refuses numbers which JSON does not have.
struct Finite;

macro_rules! ignore {
    ($($method:ident($type:ty);)*) => { $(
        fn $method(self, _: $type) -> Result<(), serde_json::Error> { Ok(()) }
    )* };
}

impl ser::Serializer for Finite {
    type Ok = ();
    type Error = serde_json::Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    ignore! {
        serialize_bool(bool); serialize_i8(i8); serialize_i16(i16); serialize_i32(i32); serialize_i64(i64);
        serialize_i128(i128); serialize_u8(u8); serialize_u16(u16); serialize_u32(u32); serialize_u64(u64);
        serialize_u128(u128); serialize_char(char); serialize_str(&str); serialize_bytes(&[u8]);
        serialize_unit_struct(&'static str);
    }

    fn serialize_f32(self, value: f32) -> Result<(), Self::Error> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Self::Error> {
        if value.is_finite() {
            return Ok(());
        }
        Err(ser::Error::custom(format!("JSON has no {value}: leave it out, or send a text")))
    }

    fn serialize_none(self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Self::Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Self::Error> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Self::Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Self::Error> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Result<(), Self::Error> {
        Ok(())
    }
}

macro_rules! look_into {
    ($($of:ident: $method:ident($($key:ty)?);)*) => { $(
        impl ser::$of for Finite {
            type Ok = ();
            type Error = serde_json::Error;
            fn $method<T: Serialize + ?Sized>(&mut self, $(_: $key,)? value: &T) -> Result<(), Self::Error> {
                value.serialize(Finite)
            }
            fn end(self) -> Result<(), Self::Error> { Ok(()) }
        }
    )* };
}

look_into! {
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeStruct: serialize_field(&'static str);
    SerializeStructVariant: serialize_field(&'static str);
}

impl ser::SerializeMap for Finite {
    type Ok = ();
    type Error = serde_json::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), Self::Error> {
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Self::Error> {
        value.serialize(Finite)
    }

    fn end(self) -> Result<(), Self::Error> {
        Ok(())
    }
}

fn push_topic(to: &mut Vec<u8>, system: &str, kind: &str) {
    to.extend_from_slice(system.as_bytes());
    to.push(0);
    to.extend_from_slice(kind.as_bytes());
    to.push(0);
}

/// Appends a batch (W12).
fn push_items<'a, T: Serialize + 'a>(
    to: &mut Vec<u8>,
    items: impl IntoIterator<Item = (&'a str, &'a T)>,
) -> Result<u64> {
    let mut count = 0;
    to.push(b'[');
    for (path, data) in items {
        check_path(path)?;
        to.extend_from_slice(if count > 0 { b",[" } else { b"[" });
        push_json(to, path, 2)?;
        to.push(b',');
        push_json(to, data, 2)?;
        if to.last() == Some(&b',') {
            to.pop();
        }
        to.push(b']');
        count += 1;
    }
    to.push(b']');
    Ok(count)
}

/// What [`encode`] makes a frame of.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a, T> {
    /// A value that is sent as JSON; null is no data.
    Json(&'a T),
    /// Raw bytes.
    Bytes(&'a [u8]),
    /// A batch, of paths and values.
    Batch(&'a [(String, T)]),
}

/// Makes a frame with a ready stamp. This is for tools; [`Bus::send`] makes its frames of the same parts.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] for what [`Bus::send`] refuses. A retry fails as well.
pub fn encode<T: Serialize>(
    system: &str,
    kind: &str,
    path: &str,
    stamp: &str,
    content: Content<'_, T>,
) -> Result<Vec<u8>> {
    check_topic(system, kind)?;
    let mut frame = Vec::new();
    push_topic(&mut frame, system, kind);
    match content {
        Content::Batch(_) => {}
        _ => check_path(path)?,
    }
    if !matches!(content, Content::Batch(_)) {
        frame.extend_from_slice(path.as_bytes());
    }
    frame.push(0);
    frame.extend_from_slice(stamp.as_bytes());
    frame.push(0);
    match content {
        Content::Json(data) => push_json(&mut frame, data, 0)?,
        Content::Bytes(raw) => {
            frame.push(0);
            frame.extend_from_slice(raw);
        }
        Content::Batch(items) => {
            push_items(&mut frame, items.iter().map(|(path, data)| (path.as_str(), data)))?;
        }
    }
    Ok(frame)
}

// ------------------------------------------------------------------------------------------------------------
// Patterns

/// A pattern that selects names. Its segments are separated by dots: `*` selects one segment, `**` any number of
/// them, `(a|b)` one of these, anything else itself. `*` on its own selects everything.
#[derive(Debug, Clone)]
pub struct Pattern(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    One,
    Any,
    Words(Vec<String>), // sorted; one if it is literal
}

const MAX_PREFIXES: usize = 16;

impl std::str::FromStr for Pattern {
    type Err = Error;

    /// Compiles a pattern. The error is of kind [`ErrorKind::Invalid`], and names the form to use.
    fn from_str(pattern: &str) -> Result<Self> {
        let no = |advice: &str| Error::invalid(format!("{pattern:?} is not a pattern: {advice}"));
        if pattern.is_empty() {
            return Err(Error::invalid("system pattern is required: use '**' for everything"));
        }
        if pattern.contains('\0') {
            return Err(no("it contains NUL, which separates fields"));
        }
        if pattern == "*" {
            return Ok(Pattern(vec![Segment::Any]));
        }
        pattern.split('.').map(|part| Segment::parse(part).map_err(no)).collect::<Result<_>>().map(Pattern)
    }
}

impl Segment {
    fn parse(part: &str) -> Result<Self, &'static str> {
        match part {
            "*" => return Ok(Segment::One),
            "**" => return Ok(Segment::Any),
            "" => return Err("it has an empty segment; use single dots between words, or '**' for any depth"),
            ">" | "#" | "+" => return Err("for exactly one segment use '*', for any depth '**'"),
            _ => {}
        }
        let inner = part.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let mut words: Vec<_> = inner.map_or(vec![part], |inner| inner.split('|').collect());
        if words.iter().any(|word| matches!(*word, "" | ">" | "#" | "+") || word.contains(['*', '(', ')', '|'])) {
            return Err("a wildcard is a whole segment, as in 'orders.*' or 'orders.**', and a bracket lists whole literal segments, as in '(a|b)'");
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
    /// Whether the pattern selects a name. The time is linear for each `**`.
    pub fn matches(&self, name: &str) -> bool {
        let words: Vec<_> = name.split('.').collect();
        let (mut at, mut word) = (0, 0);
        let mut star = None; // after the last `**`, and what it has taken
        while word < words.len() {
            match self.0.get(at) {
                Some(Segment::Any) => {
                    at += 1;
                    star = Some((at, word));
                }
                Some(segment) if segment.selects(words[word]) => {
                    at += 1;
                    word += 1;
                }
                _ => match star {
                    Some((after, taken)) => {
                        star = Some((after, taken + 1));
                        (at, word) = (after, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        self.0[at..].iter().all(|segment| *segment == Segment::Any)
    }

    /// The ZeroMQ subscriptions of a channel, sorted (W22). Without a kind, every kind is selected.
    pub fn prefixes(system: &Pattern, kind: Option<&Pattern>) -> Vec<Vec<u8>> {
        let (mut heads, literal) = system.heads();
        if literal {
            let (mut tails, mut end) = (vec![String::new()], "");
            if let Some(kind) = kind.filter(|kind| kind.0.iter().any(|segment| *segment != Segment::Any)) {
                let (more, closed) = kind.heads();
                if heads.len() * more.len() <= MAX_PREFIXES {
                    tails = more;
                    end = if closed { "\0" } else { "" };
                }
            }
            heads = each(&heads, "\0", &tails);
            heads.iter_mut().for_each(|head| head.push_str(end));
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
                Segment::Words(words) if heads.len() * words.len() <= MAX_PREFIXES => {
                    heads = each(&heads, dot, words);
                }
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

/// A topic that a channel has heard of.
#[derive(Debug)]
struct Heard {
    head: Box<[u8]>, // system NUL kind NUL
    system: String,
    kind: String,
    wanted: bool,
}

#[derive(Debug, Clone)]
struct StreamKey {
    topic: Arc<Heard>,
    origin: Origin,
}

impl PartialEq for StreamKey {
    fn eq(&self, other: &Self) -> bool {
        self.origin == other.origin && self.topic.head == other.topic.head
    }
}

impl Eq for StreamKey {}

impl Hash for StreamKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.topic.head.hash(state);
        self.origin.hash(state);
    }
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    begin: u64, // the number from which the channel counts
    due: u64,
}

/// Turns the frames of one channel, in the order in which they arrived, into events and gaps. This is what a
/// [`Subscription`] does with its frames, for tools and tests.
#[derive(Debug)]
pub struct Decoder {
    /// Events of the latest frame.
    pub events: Vec<Event>,
    /// What the latest frame shows as lost.
    pub gaps: Vec<Gap>,
    /// The stamp of the latest frame.
    pub stamp: Stamp,
    /// How many events were lost so far.
    pub lost: u64,
    /// How many frames were malformed so far.
    pub malformed: u64,
    system: Pattern,
    kind: Option<Pattern>,
    limit: usize,
    announced: Option<u64>,
    joined: Option<u64>,
    forgetful: bool,
    latest_born: u64,
    topics: HashMap<Box<[u8]>, Arc<Heard>>,
    latest_topic: Option<Arc<Heard>>,
    young: HashMap<StreamKey, Stream>,
    old: HashMap<StreamKey, Stream>,
}

impl Decoder {
    /// Makes a decoder for a channel that selects by these patterns. It was announced and had joined at these
    /// times, in microseconds of CLOCK_MONOTONIC (W28, W38), if known. It remembers the streams that it used
    /// last, at least `limit`.
    pub fn new(
        system: Pattern,
        kind: Option<Pattern>,
        announced: Option<u64>,
        joined: Option<u64>,
        limit: usize,
    ) -> Self {
        Decoder {
            events: Vec::new(),
            gaps: Vec::new(),
            stamp: Stamp::default(),
            lost: 0,
            malformed: 0,
            system,
            kind,
            limit,
            announced,
            joined,
            forgetful: joined.is_none(),
            latest_born: 0,
            topics: HashMap::new(),
            latest_topic: None,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    fn join(&mut self, announced: Option<u64>, joined: Option<u64>) {
        (self.announced, self.joined, self.forgetful) = (announced, joined, joined.is_none());
    }

    /// Decodes a frame into `events` and `gaps`, and counts.
    pub fn decode(&mut self, frame: &[u8]) {
        self.events.clear();
        self.gaps.clear();
        self.stamp = Stamp::default();
        if frame.first() != Some(&CONTROL) && self.try_decode(frame).is_none() {
            self.malformed += 1;
            self.events.clear();
            self.gaps.clear();
        }
    }

    /// Returns `None` if the frame is malformed, in the order of W15.
    fn try_decode(&mut self, frame: &[u8]) -> Option<()> {
        let mut nuls = frame.iter().enumerate().filter(|(_, &byte)| byte == 0).map(|(at, _)| at);
        let (a, b, c, d) = (nuls.next()?, nuls.next()?, nuls.next()?, nuls.next()?);
        let topic = self.topic(&frame[..=b], a)?;
        if !topic.wanted {
            return Some(());
        }
        std::str::from_utf8(&frame[b + 1..c]).ok()?;
        self.stamp = Stamp::parse(&frame[c + 1..d])?;
        self.decode_data(&topic, frame, (b + 1, c), d + 1)?;
        if self.stamp.seq > 0 {
            self.count(topic)?;
        }
        Some(())
    }

    /// Looks up system NUL kind NUL; returns `None` if these are no names.
    fn topic(&mut self, head: &[u8], nul: usize) -> Option<Arc<Heard>> {
        if let Some(topic) = self.latest_topic.as_ref().filter(|topic| *topic.head == *head) {
            return Some(topic.clone());
        }
        let topic = match self.topics.get(head) {
            Some(topic) => topic.clone(),
            None => self.new_topic(head, nul)?,
        };
        self.latest_topic = Some(topic.clone());
        Some(topic)
    }

    fn new_topic(&mut self, head: &[u8], nul: usize) -> Option<Arc<Heard>> {
        let system = std::str::from_utf8(&head[..nul]).ok()?;
        let kind = std::str::from_utf8(&head[nul + 1..head.len() - 1]).ok()?;
        if name_fault(system).or(name_fault(kind)).is_some() {
            return None;
        }
        let wanted = self.system.matches(system) && self.kind.as_ref().map_or(true, |own| own.matches(kind));
        let topic = Arc::new(Heard { head: head.into(), system: system.into(), kind: kind.into(), wanted });
        if self.topics.len() >= MAX_TOPICS {
            self.topics.clear();
        }
        self.topics.insert(head.into(), topic.clone());
        Some(topic)
    }

    fn decode_data(&mut self, topic: &Arc<Heard>, frame: &[u8], path: (usize, usize), start: usize) -> Option<()> {
        let raw = &frame[start..];
        let form = match raw.first() {
            None => Form::None,
            Some(0) => Form::Bytes,
            Some(_) => Form::Json,
        };
        if path.0 < path.1 {
            if form == Form::Json && !is_json(std::str::from_utf8(raw).ok()?, 0) {
                return None;
            }
            let data = (start + usize::from(form == Form::Bytes), frame.len());
            self.push(topic, &Arc::from(frame), (path, None), (form, data), 0);
            return Some(());
        }
        if form != Form::Json || std::str::from_utf8(raw).is_err() {
            return None;
        }
        let items = scan_items(raw)?;
        if items.is_empty() {
            return (self.stamp.seq > 0).then_some(()); // a mark
        }
        let whole: Arc<[u8]> = Arc::from(frame);
        for (i, (path, data)) in items.into_iter().enumerate() {
            let text = &raw[path.0..path.1];
            let mut escaped = None;
            if text.contains(&b'\\') {
                let path: String = serde_json::from_slice(&raw[path.0 - 1..=path.1]).ok()?;
                escaped = Some(path.into_boxed_str());
            }
            if text.is_empty() || escaped.as_ref().is_some_and(|path| path.contains('\0')) || text.contains(&0) {
                return None;
            }
            let form = if data.is_some() { Form::Json } else { Form::None };
            let data = data.unwrap_or_default();
            let path = ((start + path.0, start + path.1), escaped);
            self.push(topic, &whole, path, (form, (start + data.0, start + data.1)), i as u64);
        }
        Some(())
    }

    fn push(
        &mut self,
        topic: &Arc<Heard>,
        frame: &Arc<[u8]>,
        (path, escaped_path): ((usize, usize), Option<Box<str>>),
        (form, data): (Form, (usize, usize)),
        index: u64,
    ) {
        let short = |(start, end): (usize, usize)| (start as u32, end as u32); // no frame has 4 GiB
        let stamp = &self.stamp;
        self.events.push(Event {
            gaps: Vec::new(),
            topic: topic.clone(),
            frame: frame.clone(),
            path: short(path),
            escaped_path,
            data: short(data),
            form,
            origin: stamp.origin,
            seq: if stamp.seq > 0 { stamp.seq.saturating_add(index) } else { 0 },
            time: stamp.time,
        });
    }

    /// Accounts for the frame that was just read (W29 to W41); returns `None` if its number is not credible.
    fn count(&mut self, topic: Arc<Heard>) -> Option<()> {
        let (stamp, events) = (self.stamp, self.events.len() as u64);
        let key = StreamKey { topic, origin: stamp.origin };
        let known = self.find(&key);
        let due = match known {
            Some(stream) => Some(stream.due),
            None => self.first_due(&stamp),
        };
        if due.is_some_and(|due| stamp.seq > due && stamp.seq - due > MAX_GAP) {
            return None;
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
        if let (Some(born), Some(joined)) = (stamp.born, self.joined) {
            if born > joined {
                return Some(1);
            }
        }
        let Some(settled) = stamp.settled else { return Some(stamp.seq) };
        if self.announced.is_some_and(|announced| settled <= announced) {
            return None;
        }
        match stamp.first {
            Some(first) if first > 0 && first <= stamp.seq && !self.forgetful => Some(first),
            _ => Some(stamp.seq),
        }
    }

    /// Counts what a mark shows that was lost before the stream was counted (W40).
    fn count_head(&mut self, key: &StreamKey, stream: &mut Stream) {
        let (Some(settled), Some(first)) = (self.stamp.settled, self.stamp.first) else { return };
        if self.forgetful || self.announced.is_some_and(|announced| settled <= announced) {
            return;
        }
        if first > 0 && first < stream.begin && stream.begin - first <= MAX_GAP {
            self.lose(key, first, stream.begin - 1);
            stream.begin = first;
        }
    }

    fn lose(&mut self, key: &StreamKey, first: u64, last: u64) {
        let (system, kind) = (key.topic.system.clone(), key.topic.kind.clone());
        self.gaps.push(Gap { origin: key.origin, system, kind, first, last });
        self.lost += last - first + 1;
    }

    fn find(&mut self, key: &StreamKey) -> Option<Stream> {
        if let Some(stream) = self.young.get(key) {
            return Some(*stream);
        }
        let stream = self.old.remove(key)?;
        self.keep(key.clone(), stream);
        Some(stream)
    }

    /// Makes a stream one of the young. When there are too many, the old ones are forgotten (W34).
    fn keep(&mut self, key: StreamKey, stream: Stream) {
        if let Some(known) = self.young.get_mut(&key) {
            *known = stream;
            return;
        }
        if self.young.len() >= self.limit {
            if !self.old.is_empty() {
                self.forgetful = true;
                self.joined = self.joined.map(|joined| joined.max(self.latest_born));
            }
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, stream);
    }
}

// ------------------------------------------------------------------------------------------------------------
// The directory: where it is, who may use it, what is in it

/// What a full queue of a subscription means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// Events that have no room are lost, and counted.
    Drop,
    /// Publishers wait: one slow subscriber holds up everybody who sends to it.
    Block,
}

impl Overflow {
    fn name(self) -> &'static str {
        match self {
            Overflow::Drop => "drop",
            Overflow::Block => "block",
        }
    }
}

/// What a file of a bus directory is (R5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileName {
    /// An ingress listens.
    Entry {
        /// The id of the ingress.
        id: String,
        /// How often somebody has joined there.
        epoch: u64,
        /// What it does when it is full.
        overflow: Overflow,
    },
    /// The socket of this ingress.
    Socket(String),
    /// A process that has opened the bus.
    Member(String),
    /// Something that is about to get another name.
    New(String),
    /// The token.
    Token,
}

impl FileName {
    /// What a name stands for, if it is one that a peer may touch.
    pub fn parse(name: &[u8]) -> Option<Self> {
        if name == b"token" {
            return Some(FileName::Token);
        }
        let text = std::str::from_utf8(name).ok()?;
        let (id, rest) = text.split_once('.')?;
        if !is_id(id.as_bytes(), 8, 32) {
            return None;
        }
        let id = id.to_owned();
        match rest {
            "sock" => return Some(FileName::Socket(id)),
            "member" => return Some(FileName::Member(id)),
            "new" => return Some(FileName::New(id)),
            _ => {}
        }
        let (epoch, overflow) = rest.split_once('.')?;
        let epoch = parse_epoch(epoch)?;
        let overflow = match overflow {
            "drop" => Overflow::Drop,
            "block" => Overflow::Block,
            _ => return None,
        };
        Some(FileName::Entry { id, epoch, overflow })
    }
}

fn parse_epoch(text: &str) -> Option<u64> {
    if text.len() > 18 || text.starts_with('0') {
        return None;
    }
    number(text.as_bytes())
}

/// The ingress and epoch of a sentinel, if the topic of a ZeroMQ subscription is one (W26).
pub fn parse_sentinel(topic: &[u8]) -> Option<(String, u64)> {
    let text = std::str::from_utf8(topic.strip_prefix(&[CONTROL])?).ok()?;
    let (id, epoch) = text.split_once('.')?;
    let epoch = parse_epoch(epoch)?;
    is_id(id.as_bytes(), 8, 32).then(|| (id.to_owned(), epoch))
}

/// Whether a bus may have this name (R2).
pub fn is_bus_name(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with(['-', '.'])
}

/// The directory that holds all buses of this user (R1).
pub fn default_root() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(root) = variable("ZBUS_DIR") {
        return root.into();
    }
    if let Some(run) = variable("XDG_RUNTIME_DIR").map(PathBuf::from) {
        if fs::metadata(&run).map_or(true, |there| there.uid() == effective_user()) {
            return run.join("zbus");
        }
    }
    PathBuf::from(variable("TMPDIR").unwrap_or_else(|| "/tmp".into())).join(format!("zbus-{}", effective_user()))
}

fn effective_user() -> u32 {
    // SAFETY: it has no conditions.
    unsafe { libc::geteuid() }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Tells files apart, also if the number of an inode is used again.
type Identity = Option<(u64, u64, i64, i64)>;

fn identify(path: &Path) -> Identity {
    let there = fs::symlink_metadata(path).ok()?;
    Some((there.dev(), there.ino(), there.ctime(), there.ctime_nsec()))
}

/// Whether a path still leads to an open file.
fn leads_to(path: &Path, file: &File) -> bool {
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(there), Ok(here)) => (there.dev(), there.ino()) == (here.dev(), here.ino()),
        _ => false,
    }
}

/// Opens a regular file, follows no link, and never blocks (R32).
fn open_regular(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let file = options.clone().custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is not a regular file", path.display())));
    }
    Ok(file)
}

fn create_regular(path: &Path, mode: u32) -> io::Result<File> {
    let file = open_regular(path, OpenOptions::new().read(true).write(true).create_new(true).mode(mode))?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file)
}

/// Removes a regular file or a socket; returns whether it did.
fn remove_ours(path: &Path) -> bool {
    let ours = |there: fs::Metadata| there.is_file() || there.file_type().is_socket();
    fs::symlink_metadata(path).is_ok_and(ours) && fs::remove_file(path).is_ok()
}

/// Whether the owner of a member file is gone (R31).
fn is_unlocked(path: &Path) -> bool {
    open_regular(path, OpenOptions::new().read(true)).is_ok_and(|file| flock(&file, libc::LOCK_SH | libc::LOCK_NB))
}

fn flock(file: &File, operation: libc::c_int) -> bool {
    // SAFETY: the descriptor is open.
    unsafe { libc::flock(file.as_raw_fd(), operation) == 0 }
}

/// The rights of what is created in a directory (R48).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rights {
    group: Option<u32>, // none if it is private
    directory: u32,
}

const PRIVATE: Rights = Rights { group: None, directory: 0o700 };

impl Rights {
    fn below(there: &fs::Metadata) -> Self {
        let mode = there.mode() & 0o7777;
        if mode & 0o2070 == 0o2070 && mode & 0o002 == 0 {
            return Rights { group: Some(there.gid()), directory: mode | 0o700 };
        }
        PRIVATE
    }

    fn file(self) -> u32 {
        if self.group.is_some() {
            0o660
        } else {
            0o600
        }
    }
}

const TO_SHARE: &str =
    "Several users share a bus in a directory prepared for a group of theirs, with ZBUS_DIR set to it \
                        for all of them: install -d -g GROUP -m 2770 DIRECTORY";

/// Refuses a directory that another user controls or can write to (R46, R47).
fn check_directory(path: &Path, by_default: bool, last: bool) -> Result<Rights> {
    let there = fs::symlink_metadata(path).map_err(|cause| Error::system(format!("use {}", path.display()), cause))?;
    let (uid, me, rights) = (there.uid(), effective_user(), Rights::below(&there));
    let no = |why: String| Err(Error::denied(path, why));
    if there.file_type().is_symlink() {
        return no("is a symbolic link: name the directory itself".into());
    } else if !there.is_dir() {
        return no("is not a directory: remove it or set ZBUS_DIR".into());
    } else if there.mode() & 0o002 != 0 {
        return no("is writable by everybody, who could forge events: chmod o-w it".into());
    } else if by_default && uid != me {
        return no(format!(
            "belongs to user {uid}, and it is where user {me} has buses of their own: remove it, or set ZBUS_DIR. {TO_SHARE}"
        ));
    }
    if let Some(group) = rights.group {
        if !in_group(group) {
            return no(format!(
                "is for group {group}, and this process is not in it: add the user to the group (usermod -aG) and log in again"
            ));
        } else if there.mode() & 0o1000 != 0 {
            return no("has the sticky bit, so nobody could clean up after another user: chmod -t it".into());
        }
    } else if uid != me && (last || uid != 0 || there.mode() & 0o020 != 0 || !may_pass(path)) {
        return no(format!("belongs to user {uid}, for them alone: share another directory with them. {TO_SHARE}"));
    }
    Ok(rights)
}

fn in_group(group: u32) -> bool {
    let mut groups = [0; 1024];
    // SAFETY: the buffer has room for as many groups as it says.
    let count = unsafe { libc::getgroups(groups.len() as libc::c_int, groups.as_mut_ptr()) };
    // SAFETY: it has no conditions.
    let own = unsafe { libc::getegid() };
    effective_user() == 0 || own == group || groups[..usize::try_from(count).unwrap_or(0)].contains(&group)
}

fn may_pass(path: &Path) -> bool {
    // SAFETY: the path ends with NUL.
    c_path(path).is_ok_and(|path| unsafe { libc::access(path.as_ptr(), libc::X_OK) == 0 })
}

fn change_group(path: &Path, group: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, None, Some(group))
}

/// Creates a directory unless it exists. One for a group is renamed once it has its rights.
fn make_directory(path: &Path, rights: Rights) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    let created = match rights.group {
        None => make_private(path, rights.directory),
        Some(group) => {
            let scratch = path.with_file_name(format!(".{}.new", new_id()));
            let renamed = make_private(&scratch, rights.directory & 0o777)
                .and_then(|()| change_group(&scratch, group))
                .and_then(|()| fs::set_permissions(&scratch, fs::Permissions::from_mode(rights.directory)))
                .and_then(|()| fs::rename(&scratch, path));
            if renamed.is_err() {
                let _ = fs::remove_dir(&scratch);
            }
            renamed
        }
    };
    created.or_else(|cause| if fs::symlink_metadata(path).is_ok() { Ok(()) } else { Err(cause) })
}

fn make_private(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(mode).create(path)
}

/// Creates what is missing of the path of a bus, and checks the rest (R3).
fn make_bus(root: &Path, path: &Path, by_default: bool) -> Result<Rights> {
    let mut rights = PRIVATE;
    let above = root.parent().unwrap_or(root);
    if fs::symlink_metadata(root).is_err() {
        check_parents(root)?;
        fs::create_dir_all(above).map_err(|cause| Error::system(format!("create {}", above.display()), cause))?;
    }
    if let (Ok(there), false) = (fs::symlink_metadata(above), by_default) {
        let prepared = Rights::below(&there);
        if prepared.directory & 0o007 == 0 {
            rights = prepared;
        }
    }
    for directory in [root, path.parent().unwrap_or(root), path] {
        make_directory(directory, rights)
            .map_err(|cause| Error::system(format!("create {}", directory.display()), cause))?;
        rights = check_directory(directory, by_default && directory == root, directory == path)?;
    }
    Ok(rights)
}

/// Refuses to create a root as root inside a directory of another user (R49).
fn check_parents(root: &Path) -> Result<()> {
    if effective_user() != 0 {
        return Ok(());
    }
    let there = root.ancestors().skip(1).find_map(|parent| fs::metadata(parent).ok());
    match there {
        Some(there) if there.uid() != 0 && there.mode() & 0o002 == 0 && Rights::below(&there).group.is_none() => {
            let user = there.uid();
            Err(Error::denied(
                root,
                format!("would be root's, in a directory of user {user}, who could not use it: run this as that user. {TO_SHARE}"),
            ))
        }
        _ => Ok(()),
    }
}

/// An open bus directory: a descriptor with a shared lock (R35), and the token (R10).
struct Handle {
    directory: Ours,
    token: Ours,
    mapped: *const AtomicU64,
    rights: Rights,
}

// SAFETY: the mapping is only read, by atomic loads.
unsafe impl Send for Handle {}
// SAFETY: likewise.
unsafe impl Sync for Handle {}

impl Handle {
    fn open(root: &Path, path: &Path, by_default: bool) -> Result<Self> {
        for _ in 0..10 {
            // It may be removed and created again meanwhile.
            let rights = make_bus(root, path, by_default)?;
            match Self::open_once(path, rights) {
                Ok(handle) if handle.is_current(path) => return Ok(handle),
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::system(format!("open {}", path.display()), cause))
                }
                _ => {}
            }
        }
        let message = format!("{} is removed again and again: find out by whom", path.display());
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    fn open_once(path: &Path, rights: Rights) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        flock(&directory, libc::LOCK_SH | libc::LOCK_NB);
        let name = path.join("token");
        let token = loop {
            match open_regular(&name, OpenOptions::new().read(true).write(true)) {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => create_token(path, &name, rights)?,
                opened => break opened?,
            }
        };
        if token.metadata()?.len() < 8 {
            token.write_all_at(&random(), 0)?;
        }
        // SAFETY: a new mapping of an open file; nobody makes the file shorter (R10).
        let mapped =
            unsafe { libc::mmap(std::ptr::null_mut(), 8, libc::PROT_READ, libc::MAP_SHARED, token.as_raw_fd(), 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Handle { directory: Ours::new(directory), token: Ours::new(token), mapped: mapped.cast(), rights })
    }

    /// Returns the token. It is one load from memory.
    fn read(&self) -> u64 {
        // SAFETY: it is mapped as long as `self` lives, and aligned as a page is.
        unsafe { (*self.mapped).load(Ordering::Acquire) }
    }

    /// Writes a new token, so that everybody looks again.
    fn touch(&self) -> Result<()> {
        self.token.write_all_at(&random(), 0).map_err(|cause| Error::system("write the token", cause))
    }

    fn is_current(&self, path: &Path) -> bool {
        leads_to(path, &self.directory) && leads_to(&path.join("token"), &self.token)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nobody else has the address.
        unsafe { libc::munmap(self.mapped as *mut _, 8) };
    }
}

fn create_token(directory: &Path, name: &Path, rights: Rights) -> io::Result<()> {
    let scratch = directory.join(format!("{}.new", new_id()));
    let file = create_regular(&scratch, rights.file())?;
    let linked = file.write_all_at(&random(), 0).and_then(|()| fs::hard_link(&scratch, name));
    let _ = fs::remove_file(&scratch);
    match linked {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(cause),
        _ => Ok(()),
    }
}

/// An ingress as the roster shows it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    epoch: u64,
    overflow: Overflow,
}

/// The directory of one bus.
struct Roster {
    root: PathBuf,
    path: PathBuf,
    by_default: bool,
    state: Mutex<RosterState>,
    leftovers: AtomicBool, // whether cleaning up has not finished
}

struct RosterState {
    now: Arc<Handle>,
    former: Vec<Arc<Handle>>, // open as long as the bus, since others may still have their tokens mapped
    dead: HashMap<String, Identity>, // ingresses that did not answer, and what their sockets were (R33)
}

impl Roster {
    fn open(root: &Path, bus: &str, by_default: bool) -> Result<Self> {
        if !is_bus_name(bus) {
            return Err(Error::invalid(format!(
                "{bus:?} is not a bus name: use letters, digits, '_', '-', '.', at most 64"
            )));
        }
        if root.as_os_str().as_bytes().contains(&0) {
            return Err(Error::invalid(format!("the directory {root:?} contains NUL, which no path may")));
        }
        let root = std::path::absolute(root).map_err(|cause| Error::system("find the working directory", cause))?;
        let path = root.join("v1").join(bus);
        let length = path.as_os_str().len() + "/0123456789abcdef.sock".len();
        if length > 107 {
            return Err(Error::invalid(format!(
                "{} is too long: its sockets would have {length} bytes of at most 107; shorten ZBUS_DIR, or the bus name",
                path.display()
            )));
        }
        let lost = has_lost_token(&path);
        let now = Arc::new(Handle::open(&root, &path, by_default)?);
        if lost {
            std::thread::sleep(Duration::from_millis(1250)); // until the others have noticed
        }
        let state = RosterState { now, former: Vec::new(), dead: HashMap::new() };
        Ok(Roster { root, path, by_default, state: Mutex::new(state), leftovers: AtomicBool::new(false) })
    }

    fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    fn socket(&self, id: &str) -> PathBuf {
        self.file(format!("{id}.sock"))
    }

    fn now(&self) -> Arc<Handle> {
        lock(&self.state).now.clone()
    }

    /// The newest entry of each ingress, as of one moment (R7, R13).
    fn entries(&self) -> Result<HashMap<String, Entry>> {
        let now = self.now();
        loop {
            let before = now.read();
            let names =
                list(&self.path).map_err(|cause| Error::system(format!("list {}", self.path.display()), cause))?;
            if now.read() != before {
                continue;
            }
            let mut found: HashMap<String, Entry> = HashMap::new();
            for name in names {
                if let FileName::Entry { id, epoch, overflow } = name {
                    let newest = found.entry(id).or_insert(Entry { epoch, overflow });
                    if epoch > newest.epoch {
                        *newest = Entry { epoch, overflow };
                    }
                }
            }
            lock(&self.state).dead.retain(|id, socket| {
                let still = found.contains_key(id) && identify(&self.socket(id)) == *socket;
                if still {
                    found.remove(id);
                }
                still
            });
            return Ok(found);
        }
    }

    /// Removes the files of a dead ingress (R27), and lists it no more if that fails (R33).
    fn bury(&self, dead: &str) -> bool {
        let socket = self.socket(dead);
        lock(&self.state).dead.insert(dead.to_owned(), identify(&socket));
        let mut removed = false;
        for name in list(&self.path).unwrap_or_default() {
            if let FileName::Entry { id, epoch, overflow } = name {
                if id == dead {
                    removed |= remove_ours(&self.file(format!("{id}.{epoch}.{}", overflow.name())));
                }
            }
        }
        remove_ours(&socket) || removed
    }

    /// Removes what dead processes left, for a moment; the next call goes on (R28, R34).
    fn reap(&self, patience: Duration) {
        let (names, until) = (list(&self.path).unwrap_or_default(), Instant::now() + patience);
        let (mut removed, mut seen) = (false, HashSet::new());
        // Not always the same first, so that live files do not take the time of each call.
        let first = u64::from_ne_bytes(random()) as usize % names.len().max(1);
        self.leftovers.store(false, Ordering::Relaxed);
        for (i, name) in names[first..].iter().chain(&names[..first]).enumerate() {
            if i >= 100 && Instant::now() > until {
                self.leftovers.store(true, Ordering::Relaxed);
                break;
            }
            match name {
                FileName::Member(id) => {
                    let path = self.file(format!("{id}.member"));
                    if is_unlocked(&path) {
                        remove_ours(&path);
                    }
                }
                FileName::New(id) => {
                    let path = self.file(format!("{id}.new"));
                    let age = |there: fs::Metadata| there.modified().ok()?.elapsed().ok();
                    if fs::symlink_metadata(&path).ok().and_then(age) > Some(Duration::from_secs(86_400)) {
                        remove_ours(&path);
                    }
                }
                FileName::Entry { id, .. } | FileName::Socket(id) => {
                    if seen.insert(id) && !answers(&self.socket(id)) {
                        removed |= self.bury(id);
                    }
                }
                FileName::Token => {}
            }
        }
        if removed {
            let _ = self.now().touch();
        }
    }

    /// Lets an entry appear whole (R8).
    fn write_entry(&self, id: &str, name: &str, text: &[u8]) -> Result<()> {
        let scratch = self.file(format!("{id}.new"));
        let written = create_regular(&scratch, self.now().rights.file())
            .and_then(|mut file| file.write_all(text))
            .and_then(|()| fs::rename(&scratch, self.file(name)));
        written.map_err(|cause| {
            remove_ours(&scratch);
            Error::system(format!("write {}", self.file(name).display()), cause)
        })
    }

    /// Opens what is at the path now, if somebody has removed and perhaps recreated it (R38).
    fn follow(&self) -> Result<()> {
        let fresh = Arc::new(Handle::open(&self.root, &self.path, self.by_default)?);
        let mut state = lock(&self.state);
        let former = std::mem::replace(&mut state.now, fresh);
        state.former.push(former);
        Ok(())
    }

    /// Writes the token, then the former ones.
    fn touch_all(&self) -> Result<()> {
        let state = lock(&self.state);
        let told = state.now.touch();
        for former in &state.former {
            let _ = former.touch();
        }
        told
    }
}

fn list(path: &Path) -> io::Result<Vec<FileName>> {
    let mut names = Vec::new();
    for file in fs::read_dir(path)? {
        names.extend(FileName::parse(file?.file_name().as_bytes()));
    }
    Ok(names)
}

/// Whether there are live members and no token: somebody has removed it (R10).
fn has_lost_token(path: &Path) -> bool {
    let names = list(path).unwrap_or_default();
    let alive = |name: &FileName| match name {
        FileName::Member(id) => !is_unlocked(&path.join(format!("{id}.member"))),
        _ => false,
    };
    !names.contains(&FileName::Token) && names.iter().any(alive) && fs::symlink_metadata(path.join("token")).is_err()
}

/// The file that shows this process to people and tools (R29 to R31).
struct Member {
    id: String,
    state: Mutex<MemberState>,
}

#[derive(Default)]
struct MemberState {
    file: Option<Ours>,
    counts: [u64; 16],
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
    fn create(&self, roster: &Roster) -> Result<()> {
        let scratch = roster.file(format!("{}.new", self.id));
        let mut state = lock(&self.state);
        let mut content: Vec<u8> = state.counts.iter().flat_map(|count| count.to_le_bytes()).collect();
        content.extend(state.text());
        let made = create_regular(&scratch, roster.now().rights.file()).and_then(|mut file| {
            flock(&file, libc::LOCK_EX);
            file.write_all(&content)?;
            fs::rename(&scratch, roster.file(format!("{}.member", self.id)))?;
            Ok(file)
        });
        let file = made.map_err(|cause| {
            remove_ours(&scratch);
            Error::system(format!("write {}", scratch.display()), cause)
        })?;
        state.file = Some(Ours::new(file));
        Ok(())
    }

    fn add(&self, counter: Counter, n: u64) {
        if n > 0 {
            let mut state = lock(&self.state);
            let at = counter as usize;
            state.counts[at] += n;
            state.write(&state.counts[at].to_le_bytes(), 8 * at as u64);
        }
    }

    fn new_origin(&self) -> String {
        let mut state = lock(&self.state);
        let origin = new_id();
        if state.origins.len() == 100 {
            state.origins.remove(0); // the text does not get shorter
        }
        state.origins.push(origin.clone());
        let text = state.text();
        state.write(&text, 128);
        origin
    }
}

impl MemberState {
    fn text(&self) -> Vec<u8> {
        let text = serde_json::json!({
            "process": program(), "pid": std::process::id(), "language": "rust", "origins": self.origins,
        });
        text.to_string().into_bytes()
    }

    /// Nobody depends on what is written here, and the directory may be full.
    fn write(&self, content: &[u8], at: u64) {
        if let Some(file) = &self.file {
            let _ = file.write_all_at(content, at);
        }
    }
}

fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&path).file_name().unwrap_or_default();
    name.as_bytes().utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
        text
    })
}

// ------------------------------------------------------------------------------------------------------------
// Clocks, and what the kernel knows of sockets and processes

/// The machine's CLOCK_MONOTONIC in microseconds, if it can be determined (W8).
fn clock() -> Option<u64> {
    static OFFSET: OnceLock<Option<i64>> = OnceLock::new();
    let offset = (*OFFSET.get_or_init(time_offset))?;
    u64::try_from(clock_micros(libc::CLOCK_MONOTONIC)? - offset).ok()
}

fn clock_micros(id: libc::clockid_t) -> Option<i64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is written to.
    let good = unsafe { libc::clock_gettime(id, &mut now) == 0 };
    good.then_some(now.tv_sec * 1_000_000 + now.tv_nsec / 1000)
}

/// What the kernel adds to CLOCK_MONOTONIC in this process, in microseconds.
fn time_offset() -> Option<i64> {
    let Ok(own) = fs::read_link("/proc/self/ns/time") else { return Some(0) }; // no such namespaces here
    if fs::read_link("/proc/self/ns/time_for_children").ok()? != own {
        return None;
    }
    let offsets = fs::read_to_string("/proc/self/timens_offsets").ok()?;
    let mut fields = offsets.lines().find(|line| line.starts_with("monotonic"))?.split_whitespace().skip(1);
    let (seconds, nanos): (i64, i64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(seconds * 1_000_000 + nanos / 1000)
}

fn unix_address(path: &Path) -> Option<(libc::sockaddr_un, libc::socklen_t)> {
    let raw = path.as_os_str().as_bytes();
    // SAFETY: all zeros is an address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path[..107].iter_mut().zip(raw) {
        *to = *from as libc::c_char;
    }
    (raw.len() <= 107).then_some((address, std::mem::size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

/// Connects without waiting; returns the socket and what the kernel said.
fn dial_unix(path: &Path, kind: libc::c_int) -> Option<(OwnedFd, io::Result<()>)> {
    let (address, size) = unix_address(path)?;
    // SAFETY: a new socket.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the address is as long as it says.
    let rc = unsafe { libc::connect(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), size) };
    Some((fd, if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }))
}

/// Whether a process listens at a socket (R26); in doubt, it does. The kernel tells a datagram socket so without a
/// connection.
fn answers(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Err(cause) => return cause.kind() != io::ErrorKind::NotFound,
        Ok(there) if !there.file_type().is_socket() => return false,
        Ok(_) => {}
    }
    match dial_unix(path, libc::SOCK_DGRAM) {
        Some((_, Err(cause))) => !matches!(cause.raw_os_error(), Some(libc::ECONNREFUSED | libc::ENOENT)),
        _ => true,
    }
}

/// Connects to an ingress; returns its process, and whether it greets within that time.
fn ask_listener(path: &Path, greeting: Duration) -> (Option<i32>, bool) {
    let Some((fd, Ok(()))) = dial_unix(path, libc::SOCK_STREAM) else { return (None, true) };
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = std::mem::size_of::<libc::ucred>() as libc::socklen_t;
    let to = std::ptr::from_mut(&mut peer).cast();
    // SAFETY: `peer` has room for as much as `size` says.
    let rc = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, to, &mut size) };
    let pid = (rc == 0 && peer.pid > 0).then_some(peer.pid);
    let (mut stream, until) = (File::from(fd), Instant::now() + greeting);
    while Instant::now() < until {
        match stream.read(&mut [0]) {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
            read => return (pid, read.map_or(true, |bytes| bytes > 0)),
        }
    }
    (pid, false)
}

/// The descriptors of this process that are connected to an ingress, and its id.
fn connections() -> Vec<(libc::c_int, String)> {
    let mut found = Vec::new();
    for file in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let Some(fd) = file.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // SAFETY: all zeros is an address.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        let mut size = std::mem::size_of::<libc::sockaddr_un>() as libc::socklen_t;
        // SAFETY: `address` has room for as much as `size` says.
        let rc = unsafe { libc::getpeername(fd, std::ptr::from_mut(&mut address).cast(), &mut size) };
        if rc != 0 || i32::from(address.sun_family) != libc::AF_UNIX {
            continue;
        }
        found.extend(ingress_of(&address).map(|id| (fd, id)));
    }
    found
}

/// The ingress whose socket has this address.
fn ingress_of(address: &libc::sockaddr_un) -> Option<String> {
    let path: Vec<u8> = address.sun_path.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    match FileName::parse(path.rsplit(|&byte| byte == b'/').next()?)? {
        FileName::Socket(id) | FileName::New(id) => Some(id),
        _ => None,
    }
}

/// How many bytes the peer of a socket has not read.
fn unread(fd: libc::c_int) -> i32 {
    let mut pending: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    let rc = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut pending) };
    if rc == 0 {
        pending
    } else {
        0
    }
}

/// Refuses to go on close to the limit of descriptors, where libzmq would abort the process.
fn check_descriptors() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let used = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
    // SAFETY: `limit` is written to.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 };
    if !known || used + 32 <= limit.rlim_cur {
        return Ok(());
    }
    let message = format!(
        "{used} of {} file descriptors are in use, too many to use a bus: raise the limit (ulimit -n) or close some",
        limit.rlim_cur
    );
    Err(Error { retryable: true, ..Error::new(ErrorKind::Unavailable, message) })
}

/// The thread in which libzmq writes. If it sleeps, it has written all that there was room for.
struct IoThread {
    prefix: String,
    status: Option<PathBuf>,
}

impl IoThread {
    /// How often the thread has fallen asleep, if it sleeps now.
    fn asleep(&mut self) -> Option<u64> {
        if self.status.is_none() {
            let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
            let own =
                |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with(&self.prefix));
            self.status = tasks.map(|task| task.path()).find(own).map(|task| task.join("status"));
        }
        let text = fs::read_to_string(self.status.as_ref()?).ok()?;
        if !text.contains("State:\tS") {
            return None;
        }
        text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
    }
}

/// What the kernel shows of another process (R40).
#[derive(Clone, Copy)]
struct Process {
    at: Instant,
    ran: i64, // microseconds on a CPU
    ready: bool,
    stopped: bool,
}

impl Process {
    fn look(pid: i32) -> Option<Self> {
        let mut id: libc::clockid_t = 0;
        // SAFETY: `id` is written to.
        if unsafe { clock_getcpuclockid(pid, &mut id) } != 0 {
            return None;
        }
        let (at, ran) = (Instant::now(), clock_micros(id)?);
        let (mut ready, mut stopped, mut visible) = (false, true, false);
        for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            let Ok(text) = fs::read(task.path().join("stat")) else { continue };
            let Some(end) = text.iter().rposition(|&byte| byte == b')') else { continue };
            let Some(state) = text.get(end + 2) else { continue };
            visible = true;
            ready |= matches!(state, b'R' | b'D');
            stopped &= matches!(state, b'T' | b't' | b'X' | b'Z');
        }
        visible.then_some(Process { at, ran, ready, stopped })
    }

    /// Whether it had work to do since, and did not get the CPU for it.
    fn waits_for_cpu(&self, before: &Process) -> bool {
        let passed = (self.at - before.at).as_micros() as i64;
        self.ready && self.ran - before.ran < passed * 8 / 10
    }
}

extern "C" {
    fn clock_getcpuclockid(pid: libc::pid_t, clock: *mut libc::clockid_t) -> libc::c_int;
}

// ------------------------------------------------------------------------------------------------------------
// libzmq

/// The functions of libzmq that are used here.
mod ffi {
    use libc::{c_char, c_int, c_long, c_short, c_void, size_t};

    #[repr(C, align(8))]
    pub struct Message(pub [u8; 64]);

    #[repr(C)]
    pub struct PollItem {
        pub socket: *mut c_void,
        pub fd: c_int,
        pub events: c_short,
        pub revents: c_short,
    }

    #[link(name = "zmq")]
    extern "C" {
        pub fn zmq_version(major: *mut c_int, minor: *mut c_int, patch: *mut c_int);
        pub fn zmq_errno() -> c_int;
        pub fn zmq_strerror(code: c_int) -> *const c_char;
        pub fn zmq_ctx_new() -> *mut c_void;
        pub fn zmq_ctx_set(context: *mut c_void, option: c_int, value: c_int) -> c_int;
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
        pub fn zmq_msg_init(message: *mut Message) -> c_int;
        pub fn zmq_msg_recv(message: *mut Message, socket: *mut c_void, flags: c_int) -> c_int;
        pub fn zmq_msg_data(message: *mut Message) -> *mut c_void;
        pub fn zmq_msg_size(message: *const Message) -> size_t;
        pub fn zmq_msg_close(message: *mut Message) -> c_int;
    }

    pub const SUB: c_int = 2;
    pub const XPUB: c_int = 9;
    pub const SUBSCRIBE: c_int = 6;
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
    pub const MAX_SOCKETS: c_int = 2;
    pub const THREAD_NAME_PREFIX: c_int = 9;
    pub const DONTWAIT: c_int = 1;
    pub const POLLIN: c_short = 1;
}

/// The version of libzmq that this program runs with.
pub fn library_version() -> String {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: all three are written to.
    unsafe { ffi::zmq_version(&mut major, &mut minor, &mut patch) };
    format!("{major}.{minor}.{patch}")
}

/// The latest error of libzmq in this thread.
fn zmq_error() -> io::Error {
    // SAFETY: the text is a constant of the library.
    unsafe {
        let code = ffi::zmq_errno();
        if code < 1000 {
            return io::Error::from_raw_os_error(code);
        }
        io::Error::other(std::ffi::CStr::from_ptr(ffi::zmq_strerror(code)).to_string_lossy())
    }
}

fn is_again() -> bool {
    // SAFETY: it has no conditions.
    unsafe { ffi::zmq_errno() == libc::EAGAIN }
}

/// Calls a function of libzmq again if a signal has interrupted it; returns `None` if it has failed.
fn patiently(mut call: impl FnMut() -> libc::c_int) -> Option<usize> {
    loop {
        let rc = call();
        // SAFETY: it has no conditions.
        if rc >= 0 || unsafe { ffi::zmq_errno() } != libc::EINTR {
            return usize::try_from(rc).ok();
        }
    }
}

struct Context(*mut libc::c_void);

// SAFETY: libzmq lets any thread use a context.
unsafe impl Send for Context {}
// SAFETY: likewise.
unsafe impl Sync for Context {}

/// A socket. One thread at a time may use it, so it is not `Sync`.
struct Socket(*mut libc::c_void);

// SAFETY: a socket may migrate between threads behind a full fence, which any lock or channel is.
unsafe impl Send for Socket {}

impl Socket {
    fn new(context: &Context, kind: libc::c_int) -> Result<Self> {
        // SAFETY: the context lives, since its bus does.
        let socket = unsafe { ffi::zmq_socket(context.0, kind) };
        if socket.is_null() {
            return Err(Error { retryable: true, ..Error::system("open a socket", zmq_error()) });
        }
        Ok(Socket(socket))
    }

    fn set(&self, option: libc::c_int, value: libc::c_int) {
        self.set_raw(option, &value.to_ne_bytes());
    }

    fn set_raw(&self, option: libc::c_int, value: &[u8]) {
        // SAFETY: the value is as long as it says.
        unsafe { ffi::zmq_setsockopt(self.0, option, value.as_ptr().cast(), value.len()) };
    }

    fn at(
        &self,
        path: &Path,
        call: unsafe extern "C" fn(*mut libc::c_void, *const libc::c_char) -> libc::c_int,
    ) -> io::Result<()> {
        let mut endpoint = b"ipc://".to_vec();
        endpoint.extend_from_slice(path.as_os_str().as_bytes());
        let endpoint = CString::new(endpoint)?;
        // SAFETY: the endpoint ends with NUL.
        patiently(|| unsafe { call(self.0, endpoint.as_ptr()) }).map(|_| ()).ok_or_else(zmq_error)
    }

    /// Sends a frame; returns whether it was taken.
    fn send(&self, frame: &[u8], flags: libc::c_int) -> Result<bool> {
        // SAFETY: the frame is as long as it says.
        let sent = patiently(|| unsafe { ffi::zmq_send(self.0, frame.as_ptr().cast(), frame.len(), flags) });
        match sent {
            Some(_) => Ok(true),
            None if is_again() => Ok(false),
            None => Err(Error::system("send", zmq_error())),
        }
    }

    /// Reads one small message without waiting; returns its size.
    fn receive(&self, to: &mut [u8]) -> Option<usize> {
        // SAFETY: the buffer has room for as much as it says.
        patiently(|| unsafe { ffi::zmq_recv(self.0, to.as_mut_ptr().cast(), to.len(), ffi::DONTWAIT) })
    }

    /// Has libzmq do what peers have asked for: join, or make room.
    fn serve(&self) {
        let (mut events, mut size): (libc::c_int, _) = (0, std::mem::size_of::<libc::c_int>());
        // SAFETY: `events` has room for as much as `size` says.
        unsafe { ffi::zmq_getsockopt(self.0, ffi::EVENTS, std::ptr::from_mut(&mut events).cast(), &mut size) };
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: nobody uses the socket afterwards.
        unsafe { ffi::zmq_close(self.0) };
    }
}

fn poll(sockets: &[Option<&Socket>], fd: Option<libc::c_int>, milliseconds: i64) -> bool {
    let item = |socket, fd| ffi::PollItem { socket, fd, events: ffi::POLLIN, revents: 0 };
    let mut items: Vec<_> = sockets.iter().flatten().map(|socket| item(socket.0, 0)).collect();
    items.extend(fd.map(|fd| item(std::ptr::null_mut(), fd)));
    // SAFETY: there are as many items as it says.
    unsafe { ffi::zmq_poll(items.as_mut_ptr(), items.len() as libc::c_int, milliseconds as libc::c_long) >= 0 }
}

/// A received message.
struct Message(ffi::Message);

impl Message {
    /// Takes a message without waiting.
    fn take(from: &Socket) -> Option<Self> {
        let mut message = Message(ffi::Message([0; 64]));
        // SAFETY: it has the size and alignment of a zmq_msg_t, and is initialized first.
        patiently(|| unsafe {
            ffi::zmq_msg_init(&mut message.0);
            ffi::zmq_msg_recv(&mut message.0, from.0, ffi::DONTWAIT)
        })
        .map(|_| message)
    }

    fn bytes(&mut self) -> &[u8] {
        // SAFETY: the message is initialized, and owns that many bytes as long as it lives.
        unsafe {
            let size = ffi::zmq_msg_size(&self.0);
            if size == 0 {
                return &[];
            }
            std::slice::from_raw_parts(ffi::zmq_msg_data(&mut self.0).cast(), size)
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: it is initialized.
        unsafe { ffi::zmq_msg_close(&mut self.0) };
    }
}

/// Wakes a thread that waits for a socket.
struct Wake(File);

impl Wake {
    fn new() -> Result<Self> {
        // SAFETY: a new descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(Error::system("open an eventfd", io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new, and nobody else's.
        Ok(Wake(unsafe { File::from_raw_fd(fd) }))
    }

    fn signal(&self) {
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    fn clear(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

// ------------------------------------------------------------------------------------------------------------
// Receiving: a subscription is an ingress of its own, one bound SUB, and a thread that always serves it

const LEAST_HWM: usize = 1000; // frames that wait in a socket before the thread takes them
const BLOCK_HWM: usize = 1000;
const CAPACITY_BYTES: usize = 64 << 20;
const MOST_GAPS: usize = 1000;
const SERVE_PAUSE: Duration = Duration::from_millis(2);

/// What the user and the thread of a subscription share.
struct Channel {
    id: String,
    entry: String, // the name of its entry
    system: String,
    kind: Option<String>,
    overflow: Overflow,
    capacity: usize,
    wake: Wake,
    stop: AtomicBool,
    queue: Mutex<Queue>,
    arrived: Condvar, // events, or the end
    room: Condvar,    // or the end
    answered: Condvar,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Waiting>,
    bytes: usize,
    waiting: usize,    // users
    pending: Vec<Gap>, // what was lost since the last frame of the queue
    joined: Option<(Option<u64>, Option<u64>)>,
    socket: Identity, // of the file
    bind_again: bool,
    bound: Option<io::Result<()>>,
    ended: bool,
    received: u64,
    lost: u64,
    malformed: u64,
}

/// A frame that waits for the user: its events.
struct Waiting {
    first: Event,
    rest: VecDeque<Event>,
    bytes: usize,
}

impl Channel {
    fn socket_file(&self, roster: &Roster) -> PathBuf {
        roster.socket(&self.id)
    }

    fn describe(&self, member: &str) -> Vec<u8> {
        let pattern = (&self.system, self.kind.as_deref().unwrap_or("*"), self.overflow.name());
        let text = serde_json::json!({
            "process": program(), "pid": std::process::id(), "language": "rust", "member": member,
            "patterns": [pattern], "channels": 1,
        });
        text.to_string().into_bytes()
    }

    /// Binds the socket, and gives it its name once it listens (R9).
    fn bind(&self, socket: &Socket, roster: &Roster) -> io::Result<()> {
        let scratch = roster.file(format!("{}.new", self.id));
        socket.at(&scratch, ffi::zmq_bind)?;
        let rights = roster.now().rights;
        if rights.group.is_some() {
            fs::set_permissions(&scratch, fs::Permissions::from_mode(rights.file()))?;
        }
        let name = self.socket_file(roster);
        if let Err(cause) = fs::rename(&scratch, &name) {
            remove_ours(&scratch);
            return Err(cause);
        }
        lock(&self.queue).socket = identify(&name);
        Ok(())
    }

    fn pop(&self, queue: &mut Queue) -> Option<Event> {
        let first = queue.frames.front_mut()?;
        queue.received += 1;
        if let Some(next) = first.rest.pop_front() {
            return Some(std::mem::replace(&mut first.first, next));
        }
        let taken = queue.frames.pop_front()?;
        queue.bytes -= taken.bytes;
        if self.overflow == Overflow::Block && queue.frames.len() <= self.capacity / 2 {
            self.room.notify_one();
        }
        Some(taken.first)
    }

    /// Waits for an event until a time, or forever.
    fn receive(&self, until: Option<Instant>) -> Result<Event> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(evt) = self.pop(&mut queue) {
                if queue.waiting > 0 && !queue.frames.is_empty() {
                    self.arrived.notify_one();
                }
                return Ok(evt);
            }
            if queue.ended {
                return Err(Error::canceled("the subscription"));
            }
            let left = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Err(Error::timeout("no event arrived in time")),
                left => left.unwrap_or(Duration::from_secs(3600)),
            };
            queue.waiting += 1;
            queue = match self.arrived.wait_timeout(queue, left) {
                Ok((queue, _)) => queue,
                Err(poisoned) => poisoned.into_inner().0,
            };
            queue.waiting -= 1;
        }
    }

    /// Ends the thread. What has arrived can still be received.
    fn end(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.signal();
        self.room.notify_one();
    }

    /// Has the thread bind the socket again (R38), and waits for that.
    fn bind_again(&self) -> io::Result<()> {
        let mut queue = lock(&self.queue);
        queue.bind_again = true;
        queue.bound = None;
        self.wake.signal();
        loop {
            if let Some(bound) = queue.bound.take() {
                return bound;
            }
            if queue.ended {
                return Ok(());
            }
            queue = self.answered.wait(queue).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

/// The thread of a subscription. It owns the socket.
struct Receiver {
    channel: Arc<Channel>,
    socket: Socket,
    decoder: Decoder,
    roster: Arc<Roster>,
    member: Arc<Member>,
    fresh: Vec<Fresh>,
}

/// What a frame brought: gaps, then perhaps events.
struct Fresh {
    gaps: Vec<Gap>,
    events: Option<Waiting>,
}

impl Receiver {
    /// Takes what arrives until the subscription ends. While it waits for something else, it keeps serving the
    /// socket: only then can publishers join.
    fn run(mut self) {
        let channel = self.channel.clone();
        loop {
            if let Some((announced, joined)) = lock(&channel.queue).joined {
                self.decoder.join(announced, joined);
                break;
            }
            if channel.stop.load(Ordering::Acquire) {
                break;
            }
            self.serve();
            poll(&[], Some(channel.wake.0.as_raw_fd()), SERVE_PAUSE.as_millis() as i64);
            channel.wake.clear();
        }
        while !channel.stop.load(Ordering::Acquire) {
            if self.take(256) == 0 {
                poll(&[Some(&self.socket)], Some(channel.wake.0.as_raw_fd()), -1);
                channel.wake.clear();
            }
            self.push(true);
            self.obey();
        }
        while self.take(256) > 0 {
            self.push(false); // what had arrived
        }
        drop(self.socket);
        lock(&channel.queue).ended = true;
        channel.arrived.notify_all();
        channel.answered.notify_all();
    }

    fn serve(&mut self) {
        self.socket.serve();
        self.obey();
    }

    fn obey(&mut self) {
        if std::mem::take(&mut lock(&self.channel.queue).bind_again) {
            let bound = self.channel.bind(&self.socket, &self.roster);
            lock(&self.channel.queue).bound = Some(bound);
            self.channel.answered.notify_all();
        }
    }

    /// Reads and decodes frames, so many at most; returns how many there were.
    fn take(&mut self, most: usize) -> usize {
        for taken in 0..most {
            let Some(mut message) = Message::take(&self.socket) else { return taken };
            let frame = message.bytes();
            if frame.first() == Some(&CONTROL) {
                continue;
            }
            self.decoder.decode(frame);
            let mut events = self.decoder.events.drain(..);
            let bytes = frame.len();
            let events = events.next().map(|first| Waiting { first, rest: events.collect(), bytes });
            self.fresh.push(Fresh { gaps: std::mem::take(&mut self.decoder.gaps), events });
        }
        most
    }

    /// Queues what was decoded. What has no room is counted, or waits for room, if it `may` wait.
    fn push(&mut self, mut may: bool) {
        let channel = self.channel.clone();
        let mut queue = lock(&channel.queue);
        let mut lost = std::mem::take(&mut self.decoder.lost);
        let malformed = std::mem::take(&mut self.decoder.malformed);
        queue.malformed += malformed;
        for fresh in std::mem::take(&mut self.fresh) {
            fresh.gaps.into_iter().for_each(|gap| queue.tell(gap));
            let Some(mut frame) = fresh.events else { continue };
            while channel.overflow == Overflow::Block && may && queue.is_full(channel.capacity, &frame) {
                queue.lost += std::mem::take(&mut lost);
                if queue.waiting > 0 {
                    channel.arrived.notify_one();
                }
                queue = match channel.room.wait_timeout(queue, SERVE_PAUSE) {
                    Ok((queue, _)) => queue,
                    Err(poisoned) => poisoned.into_inner().0,
                };
                drop(queue);
                self.serve();
                may = !channel.stop.load(Ordering::Acquire);
                queue = lock(&channel.queue);
            }
            if channel.overflow == Overflow::Drop && queue.is_full(channel.capacity, &frame) {
                lost += frame.count();
                queue.tell_dropped(&frame);
                continue;
            }
            frame.first.gaps = std::mem::take(&mut queue.pending);
            queue.bytes += frame.bytes;
            queue.frames.push_back(frame);
        }
        queue.lost += lost;
        if queue.waiting > 0 && !queue.frames.is_empty() {
            channel.arrived.notify_one();
        }
        drop(queue);
        self.member.add(Counter::Lost, lost);
        self.member.add(Counter::Malformed, malformed);
    }
}

impl Waiting {
    fn count(&self) -> u64 {
        1 + self.rest.len() as u64
    }
}

impl Queue {
    fn is_full(&self, capacity: usize, frame: &Waiting) -> bool {
        !self.frames.is_empty() && (self.frames.len() >= capacity || self.bytes + frame.bytes > CAPACITY_BYTES)
    }

    /// Notes a gap, or makes the last one longer.
    fn tell(&mut self, gap: Gap) {
        if let Some(last) = self.pending.last_mut() {
            if last.last + 1 == gap.first
                && (last.origin, &last.kind, &last.system) == (gap.origin, &gap.kind, &gap.system)
            {
                last.last = gap.last;
                return;
            }
        }
        if self.pending.len() < MOST_GAPS {
            self.pending.push(gap);
        }
    }

    fn tell_dropped(&mut self, frame: &Waiting) {
        let (evt, count) = (&frame.first, frame.count());
        if evt.seq == 0 {
            return;
        }
        if let Some(last) = self.pending.last_mut() {
            if last.last + 1 == evt.seq
                && last.origin == evt.origin
                && last.kind == evt.kind()
                && last.system == evt.system()
            {
                last.last += count;
                return;
            }
        }
        let (system, kind) = (evt.system().to_owned(), evt.kind().to_owned());
        self.tell(Gap { origin: evt.origin, system, kind, first: evt.seq, last: evt.seq + count - 1 });
    }
}

/// Receives events. Drop it once you have stopped reading: it keeps its queue and, with [`Overflow::Block`],
/// stalls publishers.
///
/// It is an iterator that waits for the next event, and ends when the subscription or its bus is closed and
/// everything that had arrived was received. Threads may share a subscription: each event goes to one of them.
#[derive(Debug)]
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
        self.channel.receive(None)
    }

    /// Waits for the next event for that long; with zero, takes what has arrived.
    ///
    /// # Errors
    ///
    /// Those of [`Subscription::receive`], and [`ErrorKind::Timeout`], which is retryable: nothing is lost.
    pub fn receive_timeout(&self, timeout: Duration) -> Result<Event> {
        self.inner.check_fork()?;
        self.channel.receive(Instant::now().checked_add(timeout))
    }

    /// Iterates over the events, as the subscription itself does, without taking it.
    pub fn iter(&self) -> Iter<'_> {
        Iter(self)
    }

    /// Takes what was lost after the latest event that arrived. Gaps before an event are with it: see
    /// [`Event::gaps`].
    pub fn take_gaps(&self) -> Vec<Gap> {
        std::mem::take(&mut lock(&self.channel.queue).pending)
    }

    /// How many events were received from it.
    pub fn received(&self) -> u64 {
        lock(&self.channel.queue).received
    }

    /// How many events were lost so far: those that a full queue had no room for, here or at a publisher, and
    /// those that a broken connection took.
    pub fn lost(&self) -> u64 {
        lock(&self.channel.queue).lost
    }

    /// How many frames arrived that were none. Their sender has a bug.
    pub fn malformed(&self) -> u64 {
        lock(&self.channel.queue).malformed
    }

    /// Leaves the bus. What has arrived can still be received. Closing twice is fine.
    pub fn close(&self) {
        if self.inner.check_fork().is_ok() {
            self.inner.leave(&self.channel);
        }
    }

    fn next_of(&self) -> Option<Result<Event>> {
        match self.receive() {
            Err(error) if error.kind == ErrorKind::Canceled => None,
            received => Some(received),
        }
    }
}

impl Iterator for Subscription {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_of()
    }
}

/// Iterates over the events of a borrowed subscription; see [`Subscription::iter`].
#[derive(Debug)]
pub struct Iter<'a>(&'a Subscription);

impl Iterator for Iter<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_of()
    }
}

impl<'a> IntoIterator for &'a Subscription {
    type Item = Result<Event>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.close();
        self.inner.leak_after_fork();
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Channel({}, {:?}, {:?})", self.id, self.system, self.kind)
    }
}

/// What [`Bus::subscription`] builds.
#[derive(Debug, Clone)]
#[must_use = "nothing is subscribed until open() is called"]
pub struct SubscriptionBuilder<'a> {
    bus: &'a Bus,
    system: String,
    kind: Option<String>,
    overflow: Overflow,
    capacity: usize,
}

impl SubscriptionBuilder<'_> {
    /// Selects only events whose kind matches this [`Pattern`]; an empty one selects all.
    pub fn kind(mut self, pattern: impl Into<String>) -> Self {
        self.kind = Some(pattern.into()).filter(|kind| !kind.is_empty());
        self
    }

    /// What happens when the queue is full. The default is [`Overflow::Drop`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// How many frames the queue holds: events, or whole batches. The default is that of the bus.
    pub fn capacity(mut self, frames: usize) -> Self {
        self.capacity = frames;
        self
    }

    /// Subscribes. Every event that any process sends after that reaches the subscription.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] (a pattern, the capacity), [`ErrorKind::Canceled`] (the bus is closed),
    /// [`ErrorKind::PermissionDenied`] and [`ErrorKind::Unavailable`]. Only the last may be retryable.
    pub fn open(self) -> Result<Subscription> {
        let system: Pattern = self.system.parse()?;
        let kind: Option<Pattern> = self.kind.as_deref().map(str::parse).transpose()?;
        check_capacity(self.capacity)?;
        self.bus.inner.check_fork()?;
        self.bus.inner.subscribe(self, system, kind)
    }
}

fn check_capacity(capacity: usize) -> Result<()> {
    if capacity < 1 || capacity > i32::MAX as usize {
        return Err(Error::invalid(format!("capacity is {capacity}: give a number from 1 to {}", i32::MAX)));
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------------------------
// Sending: one XPUB for each overflow policy in use, a link to each ingress, numbers, marks

const PATIENCE: Duration = Duration::from_millis(20); // how long an attempt to send may hold the lock
const REST_PAUSE: Duration = Duration::from_millis(200);
const LARGE_BYTES: usize = 1024; // W42
const NOTICE_BYTES: usize = 256 << 10;

/// What a topic was sent so far, under the latest origin.
struct Topic {
    head: Arc<[u8]>, // system NUL kind NUL
    born: Option<u64>,
    seq: u64,         // the latest number
    first: u64,       // the first with this stamp
    told: u64,        // the latest that a mark told of
    generation: u64,  // of the settling that the stamp is of
    announced: usize, // bytes of large frames that a notice has told of
    stamp: Arc<[u8]>, // .born.settled.first.
}

impl Topic {
    fn is_unmarked(&self) -> bool {
        self.first > 0 && self.first <= self.seq && self.told != self.seq
    }
}

/// The connection to one ingress.
struct Link {
    overflow: Overflow,
    path: PathBuf,
    epoch: u64,
    shown: u64,
    missed: u64, // the epoch that was given up, until it is shown
    handle: Arc<Handle>,
    begun: Instant, // of the wait for its epoch
    since: Instant,
    due: Instant, // when to check it next
    pause: Duration,
    pid: Option<i32>,
    peer: Option<Process>,
    checks: u32,
    busy: u32,
    stopped: bool,
}

impl Link {
    fn is_awaited(&self) -> bool {
        self.shown < self.epoch && self.missed < self.epoch
    }

    fn expect(&mut self, epoch: u64, now: Instant) {
        self.epoch = epoch;
        self.begun = now;
        self.pause = Duration::from_millis(5);
        self.due = now + self.pause;
        self.stopped = false;
        self.restart(now);
    }

    fn restart(&mut self, since: Instant) {
        (self.since, self.checks, self.busy) = (since, 0, 0);
    }
}

/// What a mark is about: a topic, with the stamp that its events had.
#[derive(Clone)]
struct Mark {
    head: Arc<[u8]>,
    origin: Arc<str>,
    stamp: Arc<[u8]>,
    seq: u64,
}

/// Head, origin and stamp.
type MarkKey = (Arc<[u8]>, Arc<str>, Arc<[u8]>);

#[derive(Default)]
struct Marks {
    list: VecDeque<Mark>,
    has: HashSet<MarkKey>,
}

impl Marks {
    fn put(&mut self, mark: Mark) {
        if self.has.insert((mark.head.clone(), mark.origin.clone(), mark.stamp.clone())) {
            self.list.push_back(mark);
            if self.list.len() > MAX_TOPICS {
                self.take();
            }
        }
    }

    fn take(&mut self) -> Option<Mark> {
        let mark = self.list.pop_front()?;
        self.has.remove(&(mark.head.clone(), mark.origin.clone(), mark.stamp.clone()));
        Some(mark)
    }
}

/// The sending half of a bus.
struct Publisher {
    roster: Arc<Roster>,
    member: Arc<Member>,
    context: Arc<Context>,
    settings: Settings,
    timer: Arc<Timer>,
    closed: bool,
    io: IoThread,
    sockets: [Option<Socket>; 2], // by overflow policy, once there is such an ingress
    counts: [usize; 2],           // of links
    links: HashMap<String, Link>,
    handle: Arc<Handle>,
    known: Option<u64>,   // the token at which the links are settled
    listed: Option<u64>,  // the token of the latest listing
    settled: Option<u64>, // the time of W37
    generation: u64,
    answered: Option<Instant>,    // when a joiner last answered
    cpu_short: Option<Instant>,   // when one was seen to wait for a CPU
    short_until: Option<Instant>, // until when joiners that do not answer get less time (R41)
    origin: Arc<str>,
    topics: HashMap<Arc<[u8]>, Topic>,
    frame: Vec<u8>,
    owed: Marks,
    doubtful: Marks,
    full: HashSet<String>, // links that a frame may have been dropped for
    returned: [bool; 2],   // joiners that were given up have answered, by overflow policy
    telling: bool,         // whether marks go to `block` joiners that are back
    sends: u64,
    looked_at: u64,
    watching: bool,
    pause: Duration,
    tries: u32,
    check_returned: Option<Instant>,
}

/// When the publisher looks next whether it is at rest, and whether the bus closes.
#[derive(Default)]
struct Timer {
    state: Mutex<(Option<Instant>, bool)>,
    changed: Condvar,
}

const DROP: usize = Overflow::Drop as usize;
const BLOCK: usize = Overflow::Block as usize;

impl Publisher {
    /// Tries once, for a moment; returns whether the frame was sent. The topic is good unless it is new.
    fn attempt(&mut self, system: &str, kind: &str, path: &str, data: &[u8], events: u64) -> Result<bool> {
        if self.closed {
            return Err(Error::canceled("the bus"));
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        push_topic(&mut frame, system, kind);
        let sent = self.attempt_with(&mut frame, (system, kind), path, data, events);
        if frame.capacity() <= 1 << 20 {
            self.frame = frame;
        }
        sent
    }

    fn attempt_with(
        &mut self,
        frame: &mut Vec<u8>,
        names: (&str, &str),
        path: &str,
        data: &[u8],
        events: u64,
    ) -> Result<bool> {
        let is_new = !self.topics.contains_key(&frame[..]);
        let mut born = None;
        if is_new {
            check_topic(names.0, names.1)?;
            born = clock(); // before the token is compared (W8)
        }
        if self.known != Some(self.handle.read()) && !self.settle()? {
            return Ok(false);
        }
        if is_new {
            self.make_room()?;
            let head: Arc<[u8]> = Arc::from(&frame[..]);
            let topic = Topic {
                head: head.clone(),
                born,
                seq: 0,
                first: 0,
                told: 0,
                generation: 0,
                announced: 0,
                stamp: Arc::from(&b""[..]),
            };
            self.topics.insert(head, topic);
        }
        if self.topics[&frame[..]].generation != self.generation {
            self.renew(frame)?;
        }
        self.emit(frame, path, data, events)
    }

    /// Begins a new origin if this one has as many topics as it may (W35), and sends a mark that is owed.
    fn make_room(&mut self) -> Result<()> {
        if !self.origin.is_empty() && self.topics.len() < MAX_TOPICS {
            if !self.owed.list.is_empty() {
                self.send_owed(1)?;
            }
            return Ok(());
        }
        for marks in [&mut self.owed, &mut self.doubtful] {
            for mark in marks.list.iter_mut().filter(|mark| mark.origin == self.origin) {
                mark.seq = self.topics.get(&mark.head).map_or(mark.seq, |topic| topic.seq);
            }
        }
        self.owe_unmarked();
        self.topics.clear();
        self.origin = self.member.new_origin().into();
        Ok(())
    }

    /// Gives a topic the stamp of the latest settling, after a twin has told of what had the former (W48).
    fn renew(&mut self, head: &[u8]) -> Result<()> {
        let topic = &self.topics[head];
        if topic.is_unmarked() {
            let mark = self.mark_of(topic);
            let mut twin = b"\xff#".to_vec();
            push_frame(&mut twin, &mark.head, &mark.origin, mark.seq, &mark.stamp, "", b"[]");
            self.force(&twin)?;
            if self.is_in_doubt() {
                self.doubtful.put(mark);
            }
        }
        let (generation, settled) = (self.generation, self.settled);
        let Some(topic) = self.topics.get_mut(head) else { return Ok(()) };
        topic.told = topic.seq;
        topic.first = topic.seq + 1;
        topic.generation = generation;
        topic.stamp = match (topic.born, settled) {
            (Some(born), Some(settled)) => format!(".{born}.{settled}.{}.", topic.first).into_bytes().into(),
            _ => Arc::from(&b"...."[..]),
        };
        Ok(())
    }

    fn mark_of(&self, topic: &Topic) -> Mark {
        Mark { head: topic.head.clone(), origin: self.origin.clone(), stamp: topic.stamp.clone(), seq: topic.seq }
    }

    /// Sends to `block` ingresses first: what they refuse, nobody gets, and it takes no number (R24). `frame` is
    /// the head of the topic.
    fn emit(&mut self, frame: &mut Vec<u8>, path: &str, data: &[u8], events: u64) -> Result<bool> {
        let topic = &self.topics[&frame[..]];
        let (stamp, head, seq) = (topic.stamp.clone(), topic.head.clone(), topic.seq);
        frame.clear();
        push_frame(frame, &head, &self.origin, seq, &stamp, path, data);
        let (size, most) = (frame.len(), self.settings.max_event_bytes);
        if size > most {
            return Err(Error::invalid(format!(
                "the event has {size} bytes of at most {most} (max_event_bytes): send less, or a reference to it"
            )));
        }
        if size > LARGE_BYTES && !self.announce(&head, size)? {
            return Ok(false);
        }
        if let (Some(block), true) = (&self.sockets[BLOCK], self.counts[BLOCK] > 0) {
            if !block.send(frame, 0)? {
                return Ok(false);
            }
        }
        if let (Some(socket), true) = (&self.sockets[DROP], self.counts[DROP] > 0) {
            if !socket.send(frame, ffi::DONTWAIT)? {
                self.force(frame)?;
            }
        }
        if let Some(topic) = self.topics.get_mut(&head) {
            topic.seq += events;
            topic.announced = topic.announced.saturating_sub(if size > LARGE_BYTES { size } else { 0 });
        }
        self.sends += 1;
        if !self.watching {
            self.watch(REST_PAUSE);
        }
        Ok(true)
    }

    /// Announces a large frame (W42); returns whether it may be sent now.
    fn announce(&mut self, head: &[u8], size: usize) -> Result<bool> {
        if self.topics[head].announced >= size {
            return Ok(true);
        }
        let step = size.max(NOTICE_BYTES);
        let mut notice = b"\xff!".to_vec();
        notice.extend_from_slice(head);
        push_number(&mut notice, step as u64);
        if let (Some(block), true) = (&self.sockets[BLOCK], self.counts[BLOCK] > 0) {
            if !block.send(&notice, 0)? {
                return Ok(false);
            }
        }
        self.force(&notice)?;
        if let Some(topic) = self.topics.get_mut(head) {
            topic.announced += step;
        }
        Ok(true)
    }

    /// Sends a frame to all `drop` links that libzmq uses, or to none; returns which.
    fn put_strictly(&self, frame: &[u8]) -> Result<bool> {
        let Some(socket) = self.sockets[DROP].as_ref().filter(|_| self.counts[DROP] > 0) else { return Ok(true) };
        if socket.send(frame, ffi::DONTWAIT)? {
            return Ok(true);
        }
        socket.serve(); // there may be news of room
        socket.send(frame, ffi::DONTWAIT)
    }

    /// Sends a frame that a `drop` link may have no room for. Then nobody knows what else that link misses, until
    /// its peer has read everything (R57).
    fn force(&mut self, frame: &[u8]) -> Result<()> {
        if self.put_strictly(frame)? {
            return Ok(());
        }
        let links = self.links.iter().filter(|(_, link)| link.overflow == Overflow::Drop);
        self.full.extend(links.map(|(id, _)| id.clone()));
        if let Some(socket) = &self.sockets[DROP] {
            socket.set(ffi::XPUB_NODROP, 0);
            let sent = socket.send(frame, ffi::DONTWAIT);
            socket.set(ffi::XPUB_NODROP, 1);
            sent?;
        }
        Ok(())
    }

    /// Brings the links up to date with the roster (R20), for a moment; returns whether that is done.
    fn settle(&mut self) -> Result<bool> {
        let begun = Instant::now();
        let (mut now, mut overslept) = (begun, false);
        loop {
            self.handle = self.roster.now();
            let (asof, token) = (clock(), self.handle.read());
            if self.listed != Some(token) {
                self.list(now)?;
                self.listed = Some(token);
            }
            self.read_subscriptions(now);
            self.check_awaited(now, overslept);
            if !self.links.values().any(Link::is_awaited) {
                if self.listed.is_some() && self.handle.read() == token {
                    (self.settled, self.known) = (asof, Some(token));
                    self.generation += 1;
                    self.tell_returned();
                    return Ok(true);
                }
            } else if now - begun >= PATIENCE {
                return Ok(false);
            } else {
                poll(&self.sockets.each_ref().map(Option::as_ref), None, 5);
                overslept = now.elapsed() > Duration::from_millis(15);
            }
            now = Instant::now();
        }
    }

    /// Connects the ingresses that are new on the roster, and lets go of those that are gone.
    fn list(&mut self, now: Instant) -> Result<()> {
        let entries = self.roster.entries()?;
        let here = self.handle.clone();
        let mut gone = Vec::new();
        for (id, link) in &mut self.links {
            if entries.contains_key(id) {
                link.handle = here.clone();
            } else if Arc::ptr_eq(&link.handle, &here) || link.shown == 0 {
                gone.push(id.clone()); // otherwise it has yet to move to this directory (R39)
            }
        }
        gone.iter().for_each(|id| self.unlink(id));
        let mut removed = false;
        for (id, entry) in entries {
            if let Some(link) = self.links.get_mut(&id) {
                if entry.epoch > link.epoch {
                    link.expect(entry.epoch, now);
                }
            } else if answers(&self.roster.socket(&id)) {
                self.connect(id, entry, now)?;
            } else {
                removed |= self.roster.bury(&id);
            }
        }
        if removed {
            here.touch()?;
        }
        Ok(())
    }

    fn connect(&mut self, id: String, entry: Entry, now: Instant) -> Result<()> {
        let (at, overflow) = (entry.overflow as usize, entry.overflow);
        if self.sockets[at].is_none() {
            self.sockets[at] = Some(self.new_socket(overflow)?);
        }
        let Some(socket) = &self.sockets[at] else { return Ok(()) };
        let path = self.roster.socket(&id);
        socket
            .at(&path, ffi::zmq_connect)
            .map_err(|cause| Error::system(format!("connect to {}", path.display()), cause))?;
        self.counts[at] += 1;
        let mut link = Link {
            overflow,
            path,
            epoch: entry.epoch,
            shown: 0,
            missed: 0,
            handle: self.handle.clone(),
            begun: now,
            since: now,
            due: now,
            pause: Duration::ZERO,
            pid: None,
            peer: None,
            checks: 0,
            busy: 0,
            stopped: false,
        };
        link.expect(entry.epoch, now);
        self.links.insert(id, link);
        Ok(())
    }

    fn new_socket(&self, overflow: Overflow) -> Result<Socket> {
        let socket = Socket::new(&self.context, ffi::XPUB)?;
        let (hwm, wait) = match overflow {
            Overflow::Drop => (self.settings.capacity, 0),
            Overflow::Block => (self.settings.capacity.min(BLOCK_HWM), PATIENCE.as_millis() as i32),
        };
        socket.set(ffi::XPUB_NODROP, 1);
        socket.set(ffi::IMMEDIATE, 1);
        socket.set(ffi::SNDHWM, hwm as i32);
        socket.set(ffi::SNDTIMEO, wait);
        socket.set(ffi::RECONNECT_IVL_MAX, 5000);
        socket.set(ffi::LINGER, 0);
        Ok(socket)
    }

    fn unlink(&mut self, id: &str) {
        let Some(link) = self.links.remove(id) else { return };
        let at = link.overflow as usize;
        if let Some(socket) = &self.sockets[at] {
            let _ = socket.at(&link.path, ffi::zmq_disconnect);
        }
        self.counts[at] -= 1;
        self.full.remove(id);
    }

    /// Reads what peers have subscribed to; only the sentinels matter here (W25).
    fn read_subscriptions(&mut self, now: Instant) {
        let mut buffer = [0; 64];
        for socket in self.sockets.iter().flatten() {
            while let Some(size) = socket.receive(&mut buffer) {
                let Some((&added, topic)) = buffer.get(..size).and_then(<[u8]>::split_first) else { continue };
                let Some((id, epoch)) = parse_sentinel(topic) else { continue };
                let Some(link) = self.links.get_mut(&id) else { continue };
                if added != 1 {
                    // Not an older one: the connection has ended.
                    if epoch == link.shown {
                        link.shown = 0;
                        link.expect(link.epoch, now);
                    }
                    continue;
                }
                link.shown = link.shown.max(epoch);
                self.answered = Some(now);
                if link.missed > 0 {
                    self.returned[link.overflow as usize] = true;
                    if link.missed <= link.shown {
                        link.missed = 0;
                    }
                }
            }
        }
    }

    /// Checks a few of the links that are awaited: the dead are buried, and those whose time is over are given up
    /// (R21, R22, R40).
    fn check_awaited(&mut self, now: Instant, overslept: bool) {
        let due = self.links.iter().filter(|(_, link)| link.is_awaited() && now >= link.due);
        let few: Vec<_> = due.map(|(id, _)| id.clone()).take(4).collect();
        for id in few {
            if overslept {
                self.cpu_short = Some(now);
            }
            if !answers(&self.roster.socket(&id)) {
                if self.roster.bury(&id) {
                    let _ = self.handle.touch();
                }
                self.listed = None; // even if nothing could be removed
                continue;
            }
            let timeout = self.timeout_of(&id, now);
            let Some(link) = self.links.get_mut(&id) else { continue };
            match link.is_over(timeout, now, overslept) {
                Verdict::Wait => continue,
                Verdict::Slow => {
                    self.cpu_short = Some(now);
                    continue;
                }
                Verdict::Over => {}
            }
            if link.overflow == Overflow::Block
                && (link.stopped || ask_listener(&link.path, Duration::from_millis(250)).1)
            {
                link.expect(link.epoch, now); // it is full (R22)
                continue;
            }
            link.missed = link.epoch;
            if self.short_until.map_or(true, |until| now > until) {
                self.short_until = Some(now + Duration::from_secs(60));
            }
            self.member.add(Counter::JoinTimeouts, 1);
        }
    }

    /// How long a joiner that does not answer is waited for (R41).
    fn timeout_of(&self, id: &str, now: Instant) -> Duration {
        let (join, send) = (self.settings.join_timeout, self.settings.send_timeout);
        let short = self.short_until.is_some_and(|until| now < until);
        match (self.links.get(id).map(|link| link.overflow), short) {
            (Some(Overflow::Block), true) => join.min(send),
            (Some(Overflow::Block), false) => send,
            (_, true) => join.min(Duration::from_millis(50)),
            (_, false) => join,
        }
    }

    fn is_in_doubt(&self) -> bool {
        !self.full.is_empty() || self.has_missed()
    }

    fn has_missed(&self) -> bool {
        self.links.values().any(|link| link.missed > 0)
    }

    /// Looks after a pause whether the publisher is at rest.
    fn watch(&mut self, pause: Duration) {
        self.watching = true;
        lock(&self.timer.state).0 = Some(Instant::now() + pause);
        self.timer.changed.notify_one();
    }

    /// Sends the marks that are due, if nothing was sent since the last look (W46, R58).
    fn look_around(&mut self) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        let idle = self.sends == self.looked_at;
        self.looked_at = self.sends;
        self.check_doubt();
        if idle {
            self.owe_unmarked();
        } else {
            self.pause = REST_PAUSE;
        }
        if !self.send_owed(1000)? {
            self.watch(Duration::from_millis(5));
        } else if !idle {
            self.watch(REST_PAUSE);
        } else if self.is_in_doubt() {
            self.watch(self.pause);
            self.pause = (2 * self.pause).min(Duration::from_secs(1));
        } else {
            self.doubtful = Marks::default();
            self.watching = false;
        }
        Ok(())
    }

    fn owe_unmarked(&mut self) {
        let due = self.topics.values().filter(|topic| topic.is_unmarked());
        let marks: Vec<_> = due.map(|topic| self.mark_of(topic)).collect();
        marks.into_iter().for_each(|mark| self.owed.put(mark));
    }

    /// Looks for links that are back: they have answered after all, or have read everything.
    fn check_doubt(&mut self) {
        let now = Instant::now();
        if self.has_missed() && self.check_returned.map_or(true, |at| now > at) {
            self.check_returned = Some(now + Duration::from_millis(900));
            self.read_subscriptions(now);
            self.tell_returned();
        }
        if self.full.is_empty() {
            return;
        }
        let before = self.io.asleep();
        let mut empty = self.full.clone();
        for (fd, id) in connections() {
            if unread(fd) > 0 {
                empty.remove(&id);
            }
        }
        if before.is_none() || self.io.asleep() != before || empty.is_empty() {
            return;
        }
        if let Some(socket) = &self.sockets[DROP] {
            socket.serve(); // only now does libzmq use those links again
        }
        self.full.retain(|id| !empty.contains(id));
        self.owe_again();
    }

    fn tell_returned(&mut self) {
        if self.returned == [false; 2] {
            return;
        }
        self.telling |= self.returned[BLOCK];
        self.returned = [false; 2];
        self.owe_again();
        self.watch(Duration::from_millis(5));
    }

    fn owe_again(&mut self) {
        for mark in std::mem::take(&mut self.doubtful).list {
            self.owed.put(mark);
        }
    }

    /// Sends marks, so many at most, as far as there is room; returns whether none is left.
    fn send_owed(&mut self, most: usize) -> Result<bool> {
        for _ in 0..most {
            let Some(mark) = self.owed.list.front().cloned() else { break };
            let topic = self.topics.get(&mark.head).filter(|_| mark.origin == self.origin);
            let seq = topic.map_or(mark.seq, |topic| topic.seq);
            let mut twin = b"\xff#".to_vec();
            push_frame(&mut twin, &mark.head, &mark.origin, seq, &mark.stamp, "", b"[]");
            let frame = &twin[2..];
            if let (Some(block), true) = (&self.sockets[BLOCK], self.telling && self.counts[BLOCK] > 0) {
                block.send(frame, ffi::DONTWAIT)?;
            }
            if !self.put_strictly(frame)? {
                self.tries += 1;
                if self.tries < 10 {
                    return Ok(false);
                }
                self.force(frame)?;
            }
            self.tries = 0;
            self.force(&twin)?;
            self.owed.take();
            if let Some(topic) = self.topics.get_mut(&mark.head) {
                if mark.origin == self.origin && mark.stamp == topic.stamp {
                    topic.told = topic.seq;
                }
            }
            if self.is_in_doubt() {
                self.doubtful.put(mark);
            }
        }
        self.telling &= !self.owed.list.is_empty();
        Ok(self.owed.list.is_empty())
    }

    /// What a send waited for.
    fn obstacle(&self) -> String {
        match self.links.iter().find(|(_, link)| link.is_awaited()) {
            Some((id, _)) => format!("subscriber {id} did not finish joining"),
            None => "a full 'block' subscriber made no room".to_owned(),
        }
    }

    /// Until when a send waits that began then: time does not count while joiners answer, or wait for a CPU (R43).
    fn patience_since(&self, begun: Instant) -> Instant {
        let timeout = self.settings.send_timeout;
        let counts = |at: &Instant| *at > begun && *at < begun + 30 * timeout;
        let since = [self.answered, self.cpu_short].into_iter().flatten().filter(counts).max();
        since.unwrap_or(begun) + timeout
    }

    /// Sends the last marks; returns whether nobody is in doubt because it had no room (R59).
    fn finish(&mut self) -> bool {
        self.check_returned = None;
        self.check_doubt();
        self.owe_unmarked();
        self.send_owed(MAX_TOPICS).unwrap_or(true) && self.full.is_empty()
    }

    /// Closes the sockets. Returns duplicates of the connections, which keep them open: libzmq drops what the
    /// kernel still holds when a full reader sees the end of a connection (R25).
    fn close(&mut self, deadline: Instant) -> Vec<OwnedFd> {
        let spoken = |id: &String| self.links.get(id).is_some_and(|link| link.shown > 0);
        let mut held = Vec::new();
        for (fd, _) in connections().into_iter().filter(|(_, id)| spoken(id)) {
            // SAFETY: it makes a new descriptor.
            let twin = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
            if twin >= 0 {
                // SAFETY: the descriptor is new, and nobody else's.
                held.push(unsafe { OwnedFd::from_raw_fd(twin) });
            }
        }
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        for socket in self.sockets.iter_mut().filter_map(Option::take) {
            socket.set(ffi::LINGER, i32::try_from(left).unwrap_or(i32::MAX));
        }
        self.links.clear();
        self.counts = [0; 2];
        held
    }
}

/// What a look at a joiner says.
enum Verdict {
    Wait,
    Slow,
    Over,
}

impl Link {
    /// Whether a joiner has had its time. Slow is not stopped: while the machine is busy, the time begins again, up
    /// to thirty times.
    fn is_over(&mut self, timeout: Duration, now: Instant, overslept: bool) -> Verdict {
        let most = (timeout / 10).clamp(Duration::from_millis(5), Duration::from_millis(50));
        self.pause = (2 * self.pause).min(most);
        self.due = now + self.pause;
        if now.saturating_duration_since(self.since) < timeout / 2 {
            return Verdict::Wait;
        }
        let (before, was_stopped) = (self.peer, self.stopped);
        if self.pid.is_none() {
            self.pid = ask_listener(&self.path, Duration::ZERO).0;
        }
        let others = self.pid.filter(|&pid| pid as u32 != std::process::id());
        let seen = others.and_then(Process::look);
        self.peer = seen.or(before);
        self.stopped = seen.is_some_and(|peer| peer.stopped);
        let waits = match (seen, before) {
            (Some(peer), Some(before)) => self.checks > 0 && peer.waits_for_cpu(&before),
            _ => false,
        };
        self.busy += u32::from(overslept || waits);
        self.checks += 1;
        if was_stopped && !self.stopped {
            self.restart(now);
        }
        if now.saturating_duration_since(self.since) < timeout {
            Verdict::Wait
        } else if self.stopped || now.saturating_duration_since(self.begun) >= 30 * timeout {
            Verdict::Over
        } else if self.checks < 5 {
            Verdict::Wait
        } else if 3 * self.busy <= self.checks {
            Verdict::Over
        } else {
            self.restart(now.checked_sub(timeout / 2).unwrap_or(now));
            Verdict::Slow
        }
    }
}

/// Appends a frame whose number comes after `seq`.
fn push_frame(to: &mut Vec<u8>, head: &[u8], origin: &str, seq: u64, stamp: &[u8], path: &str, data: &[u8]) {
    to.extend_from_slice(head);
    to.extend_from_slice(path.as_bytes());
    to.push(0);
    to.extend_from_slice(origin.as_bytes());
    to.push(b'.');
    push_number(to, seq + 1);
    to.extend_from_slice(stamp);
    push_number(to, SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64));
    to.push(0);
    to.extend_from_slice(data);
}

// ------------------------------------------------------------------------------------------------------------
// The bus

#[derive(Debug, Clone)]
struct Settings {
    capacity: usize,
    max_event_bytes: usize,
    send_timeout: Duration,
    join_timeout: Duration,
    linger: Duration,
}

/// Options for opening a bus.
///
/// ```no_run
/// # fn main() -> Result<(), zbus_events::Error> {
/// let bus = zbus_events::Options::new().bus("workshop").capacity(1000).open()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is opened until open() is called"]
pub struct Options {
    bus: Option<String>,
    directory: Option<PathBuf>,
    settings: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        let settings = Settings {
            capacity: 65_536,
            max_event_bytes: 16 << 20,
            send_timeout: Duration::from_secs(5),
            join_timeout: Duration::from_secs(1),
            linger: Duration::from_secs(1),
        };
        Options { bus: None, directory: None, settings }
    }

    /// The name of the bus. The default is `$ZBUS_BUS`, or "default".
    pub fn bus(mut self, name: impl Into<String>) -> Self {
        self.bus = Some(name.into());
        self
    }

    /// The root of all buses. The default is `$ZBUS_DIR`, or a directory of the user; see [`default_root`].
    pub fn directory(mut self, root: impl Into<PathBuf>) -> Self {
        self.directory = Some(root.into());
        self
    }

    /// How many frames may wait in a subscription, and here for each subscriber. The default is 65,536.
    pub fn capacity(mut self, frames: usize) -> Self {
        self.settings.capacity = frames;
        self
    }

    /// The size of a frame, at least 276 bytes. All peers of a bus must agree. The default is 16 MiB.
    pub fn max_event_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_event_bytes = bytes;
        self
    }

    /// How long a send waits. The default is 5 s.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.settings.send_timeout = timeout;
        self
    }

    /// How long a send waits for a subscriber that does not finish joining. The default is 1 s.
    pub fn join_timeout(mut self, timeout: Duration) -> Self {
        self.settings.join_timeout = timeout;
        self
    }

    /// How long closing waits until others have read what was sent. The default is 1 s.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// Opens the bus, and creates its directory if nobody has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] (an option), [`ErrorKind::PermissionDenied`] (the directory is not safe to use, or
    /// belongs to somebody else), and [`ErrorKind::Unavailable`] (the operating system refused something). Only
    /// the last may be retryable.
    pub fn open(self) -> Result<Bus> {
        let most = self.settings.max_event_bytes;
        check_capacity(self.settings.capacity)?;
        if most < LEAST_MAXIMUM || most > i32::MAX as usize {
            let range = format!("from {LEAST_MAXIMUM} to {}", i32::MAX);
            return Err(Error::invalid(format!("max_event_bytes is {most}: give a number {range}")));
        }
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let from_environment = || variable("ZBUS_BUS").map(|name| name.to_string_lossy().into_owned());
        let name = self.bus.or_else(from_environment).unwrap_or_else(|| "default".to_owned());
        let by_default = self.directory.is_none() && variable("ZBUS_DIR").is_none();
        let root = self.directory.unwrap_or_else(default_root);
        check_descriptors()?;
        Inner::open(&root, &name, by_default, self.settings).map(|inner| Bus { inner })
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
        Options::new().open()
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
        self.inner.send(system, kind, path, |field| push_json(field, data, 0).map(|()| 1))
    }

    /// Sends raw bytes, as [`Bus::send`] sends JSON.
    ///
    /// # Errors
    ///
    /// Those of [`Bus::send`].
    pub fn send_bytes(&self, system: &str, kind: &str, path: &str, data: &[u8]) -> Result<()> {
        self.inner.send(system, kind, path, |field| {
            field.push(0);
            field.extend_from_slice(data);
            Ok(1)
        })
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
        check_topic(system, kind)?;
        self.inner.send_field(system, kind, "", |field| push_items(field, items))
    }

    /// Subscribes to the systems that a [`Pattern`] selects, with all kinds and the defaults.
    ///
    /// # Errors
    ///
    /// Those of [`SubscriptionBuilder::open`].
    pub fn subscribe(&self, system: &str) -> Result<Subscription> {
        self.subscription(system).open()
    }

    /// Begins a subscription with options.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), zbus_events::Error> {
    /// # let bus = zbus_events::Bus::open()?;
    /// let sub = bus.subscription("orders").kind("order.*").capacity(100).open()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscription(&self, system: impl Into<String>) -> SubscriptionBuilder<'_> {
        SubscriptionBuilder {
            bus: self,
            system: system.into(),
            kind: None,
            overflow: Overflow::Drop,
            capacity: self.inner.settings.capacity,
        }
    }

    /// Leaves the bus, as dropping it does. Closing twice is fine.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.close();
        self.inner.leak_after_fork();
    }
}

struct Inner {
    settings: Settings,
    roster: Arc<Roster>,
    member: Arc<Member>,
    context: Arc<Context>,
    publisher: Mutex<Publisher>,
    timer: Arc<Timer>,
    state: Mutex<State>,
    forks: u32, // when it was opened
}

#[derive(Default)]
struct State {
    closed: bool,
    channels: Vec<(Arc<Channel>, JoinHandle<()>)>,
    keeper: Option<JoinHandle<()>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}", self.roster.path.display())
    }
}

impl Inner {
    fn open(root: &Path, name: &str, by_default: bool, settings: Settings) -> Result<Arc<Self>> {
        static CONTEXTS: AtomicU32 = AtomicU32::new(1);
        watch_forks();
        let roster = Arc::new(Roster::open(root, name, by_default)?);
        let member = Arc::new(Member { id: new_id(), state: Mutex::default() });
        member.create(&roster)?;
        // SAFETY: it has no conditions.
        let context = Arc::new(Context(unsafe { ffi::zmq_ctx_new() }));
        let prefix = CONTEXTS.fetch_add(1, Ordering::Relaxed) % 10_000;
        // SAFETY: the context is new.
        unsafe {
            ffi::zmq_ctx_set(context.0, ffi::THREAD_NAME_PREFIX, prefix as libc::c_int);
            ffi::zmq_ctx_set(context.0, ffi::MAX_SOCKETS, 16_384);
        }
        let timer = Arc::new(Timer::default());
        let publisher = Publisher {
            roster: roster.clone(),
            member: member.clone(),
            context: context.clone(),
            settings: settings.clone(),
            timer: timer.clone(),
            closed: false,
            io: IoThread { prefix: format!("{prefix}/ZMQbg/IO/"), status: None },
            sockets: [None, None],
            counts: [0; 2],
            links: HashMap::new(),
            handle: roster.now(),
            known: None,
            listed: None,
            settled: None,
            generation: 0,
            answered: None,
            cpu_short: None,
            short_until: None,
            origin: Arc::from(""),
            topics: HashMap::new(),
            frame: Vec::new(),
            owed: Marks::default(),
            doubtful: Marks::default(),
            full: HashSet::new(),
            returned: [false; 2],
            telling: false,
            sends: 0,
            looked_at: 0,
            watching: false,
            pause: REST_PAUSE,
            tries: 0,
            check_returned: None,
        };
        roster.reap(Duration::from_millis(200));
        let inner = Arc::new(Inner {
            settings,
            roster,
            member,
            context,
            publisher: Mutex::new(publisher),
            timer,
            state: Mutex::default(),
            forks: FORKS.load(Ordering::Relaxed),
        });
        let weak = Arc::downgrade(&inner);
        let timer = inner.timer.clone();
        let keeper = spawn("zbus-keeper", move || keep_house(&weak, &timer))?;
        lock(&inner.state).keeper = Some(keeper);
        Ok(inner)
    }

    fn check_fork(&self) -> Result<()> {
        if FORKS.load(Ordering::Relaxed) != self.forks {
            return Err(Error::new(
                ErrorKind::Canceled,
                "this bus belongs to the parent process: open one after the fork",
            ));
        }
        Ok(())
    }

    /// In a forked child, nothing of the parent's may be closed: its threads are not here.
    fn leak_after_fork(self: &Arc<Self>) {
        if self.check_fork().is_err() {
            std::mem::forget(self.clone());
        }
    }

    /// Sends what `fill` makes, and checks what the caller gave in the order in which it is documented.
    fn send(&self, system: &str, kind: &str, path: &str, fill: impl FnOnce(&mut Vec<u8>) -> Result<u64>) -> Result<()> {
        self.send_field(system, kind, path, |field| check_path(path).and_then(|()| fill(field))).map_err(|error| {
            match error.kind {
                ErrorKind::Invalid => check_topic(system, kind).err().unwrap_or(error),
                _ => error,
            }
        })
    }

    fn send_field(
        &self,
        system: &str,
        kind: &str,
        path: &str,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<u64>,
    ) -> Result<()> {
        thread_local!(static FIELD: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) });
        self.check_fork()?;
        let mut field = FIELD.take();
        field.clear();
        let events = fill(&mut field)?;
        let sent = if events > 0 { self.publish(system, kind, path, &field, events) } else { Ok(()) };
        if field.capacity() <= 1 << 20 {
            FIELD.set(field);
        }
        sent
    }

    /// Tries until the frame is sent or time is over.
    fn publish(&self, system: &str, kind: &str, path: &str, data: &[u8], events: u64) -> Result<()> {
        let mut begun = None;
        loop {
            let mut publisher = lock(&self.publisher);
            if publisher.attempt(system, kind, path, data, events)? {
                return Ok(());
            }
            let begun = *begun.get_or_insert_with(Instant::now);
            if Instant::now() >= publisher.patience_since(begun) {
                self.member.add(Counter::SendTimeouts, 1);
                let (why, timeout) = (publisher.obstacle(), self.settings.send_timeout);
                return Err(Error::timeout(format!("{why} within {timeout:?}: the event was sent to nobody")));
            }
            drop(publisher);
            std::thread::yield_now(); // others want the lock, too
        }
    }

    fn subscribe(
        self: &Arc<Self>,
        wanted: SubscriptionBuilder<'_>,
        system: Pattern,
        kind: Option<Pattern>,
    ) -> Result<Subscription> {
        check_descriptors()?;
        let id = new_id();
        let channel = Arc::new(Channel {
            entry: format!("{id}.1.{}", wanted.overflow.name()),
            id,
            system: wanted.system,
            kind: wanted.kind,
            overflow: wanted.overflow,
            capacity: wanted.capacity,
            wake: Wake::new()?,
            stop: AtomicBool::new(false),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            room: Condvar::new(),
            answered: Condvar::new(),
        });
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Error::canceled("the bus"));
        }
        self.restore(&state, true)?;
        let thread = self.join(&channel, system, kind)?;
        state.channels.push((channel.clone(), thread));
        if state.channels.len() == 1 {
            self.roster.reap(Duration::from_millis(200));
        }
        Ok(Subscription { channel, inner: self.clone() })
    }

    /// Announces a subscription (R16): listen, then the entry, then the token.
    fn join(&self, channel: &Arc<Channel>, system: Pattern, kind: Option<Pattern>) -> Result<JoinHandle<()>> {
        let socket = self.listen(channel, &Pattern::prefixes(&system, kind.as_ref()))?;
        let receiver = Receiver {
            channel: channel.clone(),
            socket,
            decoder: Decoder::new(system, kind, None, None, MAX_TOPICS),
            roster: self.roster.clone(),
            member: self.member.clone(),
            fresh: Vec::new(),
        };
        let thread = spawn("zbus-receiver", move || receiver.run())?;
        let announced =
            self.roster.write_entry(&channel.id, &channel.entry, &channel.describe(&self.member.id)).and_then(|()| {
                let announced = clock();
                self.roster.now().touch().map(|()| announced)
            });
        match announced {
            Ok(announced) => {
                lock(&channel.queue).joined = Some((announced, clock()));
                channel.wake.signal();
                Ok(thread)
            }
            Err(error) => {
                self.withdraw(channel);
                channel.end();
                let _ = thread.join();
                Err(error)
            }
        }
    }

    /// Creates the socket of a subscription.
    fn listen(&self, channel: &Channel, prefixes: &[Vec<u8>]) -> Result<Socket> {
        let socket = Socket::new(&self.context, ffi::SUB)?;
        let hwm = match channel.overflow {
            Overflow::Drop => channel.capacity.max(LEAST_HWM),
            Overflow::Block => channel.capacity.min(BLOCK_HWM),
        };
        socket.set(ffi::LINGER, 0);
        socket.set(ffi::SNDHWM, 0);
        socket.set(ffi::RCVHWM, hwm as i32);
        socket.set(ffi::BACKLOG, 4096);
        socket.set_raw(ffi::MAXMSGSIZE, &(self.settings.max_event_bytes as i64).to_ne_bytes());
        for prefix in prefixes {
            socket.set_raw(ffi::SUBSCRIBE, prefix);
        }
        let mut sentinel = vec![CONTROL];
        sentinel.extend_from_slice(format!("{}.1", channel.id).as_bytes());
        socket.set_raw(ffi::SUBSCRIBE, &sentinel);
        let path = channel.socket_file(&self.roster);
        channel
            .bind(&socket, &self.roster)
            .map_err(|cause| Error::system(format!("listen at {}", path.display()), cause))?;
        Ok(socket)
    }

    /// Removes a subscription from the roster (R18), and ends its thread, once.
    fn leave(&self, channel: &Arc<Channel>) {
        let mut state = lock(&self.state);
        let Some(at) = state.channels.iter().position(|(own, _)| Arc::ptr_eq(own, channel)) else { return };
        let (_, thread) = state.channels.swap_remove(at);
        self.withdraw(channel);
        let _ = self.roster.now().touch();
        drop(state);
        channel.end();
        let _ = thread.join();
    }

    fn withdraw(&self, channel: &Channel) {
        remove_ours(&self.roster.file(&channel.entry));
        remove_ours(&channel.socket_file(&self.roster));
    }

    /// Creates again what somebody has removed of this process: the directory if it may, the member file, sockets
    /// and entries, with the same ids (R36 to R38).
    fn restore(&self, state: &State, create: bool) -> Result<()> {
        let roster = &self.roster;
        let mut moved = false;
        if !roster.now().is_current(&roster.path) {
            if !create && fs::symlink_metadata(&roster.path).is_err() {
                return Ok(());
            }
            roster.follow()?;
            moved = true;
        }
        let member = roster.file(format!("{}.member", self.member.id));
        let shown = lock(&self.member.state).file.as_ref().is_some_and(|file| leads_to(&member, file));
        if !shown {
            self.member.create(roster)?;
            moved = true;
        }
        for (channel, _) in &state.channels {
            let own = lock(&channel.queue).socket;
            if identify(&channel.socket_file(roster)) != own {
                channel.bind_again().map_err(|cause| Error::system("bind a socket again", cause))?;
                moved = true;
            }
            if fs::symlink_metadata(roster.file(&channel.entry)).is_err() {
                roster.write_entry(&channel.id, &channel.entry, &channel.describe(&self.member.id))?;
                moved = true;
            }
        }
        if moved {
            roster.touch_all()?;
        }
        Ok(())
    }

    /// Looks once a second whether others still find this process.
    fn keep(&self) {
        let state = lock(&self.state);
        if state.closed {
            return;
        }
        let _ = self.restore(&state, false); // the next look tries again
        drop(state);
        if self.roster.leftovers.load(Ordering::Relaxed) {
            self.roster.reap(PATIENCE);
        }
        for socket in lock(&self.publisher).sockets.iter().flatten() {
            socket.serve(); // libzmq frees what waited for peers that are gone
        }
    }

    fn close(&self) {
        if self.check_fork().is_err() {
            return;
        }
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        let (channels, keeper) = (std::mem::take(&mut state.channels), state.keeper.take());
        channels.iter().for_each(|(channel, _)| self.withdraw(channel));
        if !channels.is_empty() {
            let _ = self.roster.now().touch();
        }
        drop(state);
        lock(&self.timer.state).1 = true;
        self.timer.changed.notify_all();
        if let Some(keeper) = keeper {
            let _ = keeper.join();
        }
        let deadline = Instant::now() + self.settings.linger;
        lock(&self.publisher).closed = true;
        while !lock(&self.publisher).finish() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let held = lock(&self.publisher).close(deadline);
        for (channel, thread) in channels {
            channel.end();
            let _ = thread.join();
        }
        // SAFETY: all sockets are closed, and nobody opens another one.
        patiently(|| unsafe { ffi::zmq_ctx_term(self.context.0) });
        for fd in held {
            while unread(fd.as_raw_fd()) > 0 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        remove_ours(&self.roster.file(format!("{}.member", self.member.id)));
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    // SAFETY: signal sets are plain memory, and the calls write to them.
    let before = unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before); // signals are the program's own
        before
    };
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    // SAFETY: `before` was written to above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    spawned.map_err(|cause| Error::system("start a thread", cause))
}

/// Looks whether the publisher is at rest, when it is due, and once a second whether others find this process.
fn keep_house(bus: &std::sync::Weak<Inner>, timer: &Timer) {
    let mut next = Instant::now() + Duration::from_secs(1);
    let mut state = lock(&timer.state);
    while !state.1 {
        let now = Instant::now();
        let look = state.0.is_some_and(|at| at <= now);
        if !look && now < next {
            let until = state.0.map_or(next, |at| at.min(next));
            state = match timer.changed.wait_timeout(state, until - now) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
            continue;
        }
        if look {
            state.0 = None;
        }
        drop(state);
        let Some(inner) = bus.upgrade() else { return };
        if look {
            let _ = lock(&inner.publisher).look_around();
        }
        if now >= next {
            inner.keep();
            next = now + Duration::from_secs(1);
        }
        drop(inner);
        state = lock(&timer.state);
    }
}

/// How often this process has forked, as a child.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// The descriptors of the files and directories of a bus that are open: a child closes them.
static FILES: Mutex<Vec<libc::c_int>> = Mutex::new(Vec::new());

/// A file that does not stay open in a forked child.
#[derive(Debug)]
struct Ours(File);

impl Ours {
    fn new(file: File) -> Self {
        lock(&FILES).push(file.as_raw_fd());
        Ours(file)
    }
}

impl std::ops::Deref for Ours {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let own = self.0.as_raw_fd();
        lock(&FILES).retain(|&fd| fd != own);
    }
}

fn watch_forks() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: the handler may run in any child.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(after_fork));
    });
}

/// Closes what a child has inherited (R31, R35): descriptors of the bus become those of /dev/null, so that what
/// still refers to them does no harm.
unsafe extern "C" fn after_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") else { return };
    let files = FILES.try_lock().map(|files| files.clone()).unwrap_or_default();
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for fd in open.filter_map(|file| file.file_name().to_str()?.parse().ok()) {
        if files.contains(&fd) || is_connected(fd) {
            libc::dup3(null.as_raw_fd(), fd, libc::O_CLOEXEC);
        }
    }
}

fn is_connected(fd: libc::c_int) -> bool {
    for name_of in [libc::getpeername, libc::getsockname] {
        // SAFETY: all zeros is an address.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        let mut size = std::mem::size_of::<libc::sockaddr_un>() as libc::socklen_t;
        // SAFETY: `address` has room for as much as `size` says.
        let rc = unsafe { name_of(fd, std::ptr::from_mut(&mut address).cast(), &mut size) };
        if rc == 0 && i32::from(address.sun_family) == libc::AF_UNIX && ingress_of(&address).is_some() {
            return true;
        }
    }
    false
}
