//! What becomes of files and of a fork, which cannot be seen through the driver.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use zbus_events::{Bus, ErrorKind, Options};

/// A bus in a directory of its own, one test at a time: limits and forks are the whole process's.
struct Place {
    root: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Place {
    fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let root = std::env::temp_dir().join(format!("zbus-rust-{}", std::process::id()));
        fs::create_dir(&root).expect("the directory of the test");
        Place { root, _alone: alone }
    }

    fn open(&self) -> Bus {
        Options { directory: Some(self.root.clone()), ..Options::default() }.open().expect("a bus")
    }

    /// The endings of the names in the bus directory, sorted.
    fn endings(&self) -> Vec<String> {
        let names = fs::read_dir(self.root.join("v1/default")).expect("the bus directory");
        let ending = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        let mut found: Vec<_> = names.map(|file| ending(&file.unwrap().file_name().to_string_lossy())).collect();
        found.sort();
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Limits the size of files that this process writes.
fn limit_files(bytes: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit is only read. Without the signal, a write fails with EFBIG.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

/// Runs something in a child; returns its exit code.
fn in_child(run: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child only does what the library promises to allow, and exits.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(run());
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert!(libc::WIFEXITED(status), "the child was killed: {status}");
        libc::WEXITSTATUS(status)
    }
}

#[test]
fn a_subscription_that_fails_leaves_no_file() {
    let place = Place::new();
    // In a child, because what runs the tests may write to a file meanwhile.
    let code = in_child(|| {
        let bus = place.open();
        limit_files(0); // the socket can be bound; the entry cannot be written
        let failed = bus.subscribe("s").is_err_and(|error| error.kind == ErrorKind::Unavailable);
        limit_files(libc::RLIM_INFINITY);
        let clean = place.endings() == ["member", "token"];
        let again = bus.subscribe("s").is_ok();
        i32::from(!failed) + 2 * i32::from(!clean) + 4 * i32::from(!again)
    });
    assert_eq!(code, 0, "1: it did not fail; 2: it left a file; 4: it fails although there is room again");
}

#[test]
fn a_fork_is_refused_and_leaves_the_parent_alone() {
    let place = Place::new();
    let bus = place.open();
    let sub = bus.subscribe("s").expect("a subscription");
    bus.send("s", "k", "/p", &1).expect("sent");
    let code = in_child(|| {
        let canceled = |kind: Option<ErrorKind>| kind == Some(ErrorKind::Canceled);
        let refused = canceled(bus.send("s", "k", "/p", &2).err().map(|error| error.kind))
            && canceled(sub.receive_timeout(Duration::ZERO).err().map(|error| error.kind))
            && canceled(bus.subscribe("s").err().map(|error| error.kind));
        sub.close();
        bus.close();
        i32::from(!refused) + 2 * i32::from(holds(&place.root))
    });
    assert_eq!(code, 0, "1: something was not refused; 2: a file of the bus is still open");
    assert_eq!(place.endings(), ["drop", "member", "sock", "token"]);
    bus.send("s", "k", "/p", &3).expect("sent");
    let got: Vec<u64> = (0..2).map(|_| sub.receive().expect("an event").json().expect("a number")).collect();
    assert_eq!(got, [1, 3]);
}

/// Whether this process has a file below a directory open.
fn holds(root: &Path) -> bool {
    let open = fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    open.filter_map(|file| fs::read_link(file.path()).ok()).any(|path| path.starts_with(root))
}
