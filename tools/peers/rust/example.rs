//! Subscribes to `orders.**` and sends an order every second. Run it twice, or beside a program in another language:
//!
//! ```sh
//! cargo run --release --example example
//! zbus sub 'orders.**'
//! zbus send orders order.created /orders/7 '{"total": 12.5}'
//! ```

use std::thread;
use std::time::Duration;

use serde_json::{json, Value};
use zbus_events::{Bus, Error, Subscription};

fn print_events(sub: &Subscription) -> Result<(), Error> {
    for evt in sub {
        let evt = evt?;
        for gap in &evt.gaps {
            println!("missed {} events", gap.count());
        }
        match evt.json::<Value>() {
            Ok(order) => println!("{} {} {} {order}", evt.system(), evt.kind(), evt.path()),
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let bus = Bus::open()?;
    let sub = bus.subscribe("orders.**")?;
    thread::scope(|scope| {
        scope.spawn(|| print_events(&sub));
        for n in 1.. {
            let path = format!("/orders/{}-{n}", std::process::id());
            match bus.send("orders", "order.created", &path, &json!({"total": 9.5})) {
                Err(error) if error.retryable => eprintln!("{error}"), // a `block` subscriber is full: try again
                sent => sent?,
            }
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    })
}
