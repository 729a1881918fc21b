//! How long a wake takes from each rung of sleep in memory, and a paging out,
//! printed. Alone in its program. Needs root and a kernel with zram.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(missing_docs, unreachable_pub, dead_code)]

#[path = "support/app.rs"]
mod app;
#[path = "support/machine.rs"]
mod machine;

use std::time::{Duration, Instant};

use app::App;
use containers::runtime::Runtime as _;
use containers::runtime::paging::PageOutEnd;
use containers::swap::SwapConfig;
use machine::Machine;

/// Of each kind.
const WAKES: usize = 30;

const HEAP: usize = 64 << 20;

/// The program of the sandboxes is this one, started with this test's name.
#[test]
fn the_heap_is_what_was_put_there() {
    app::serve_if_inside();
    let mut heap = app::Heap::new(1 << 20);
    heap.touch(1 << 20);
    assert_eq!(heap.damage(), None);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wake {
    /// It was only frozen.
    Frozen,
    /// Paged out; its pages come by faults.
    Faults,
    /// Paged out; its working set is brought back first.
    BroughtBack,
}

fn part(times: &[Duration], part: f64) -> f64 {
    times[((times.len() - 1) as f64 * part).ceil() as usize].as_secs_f64() * 1e3
}

/// From the decision to wake to the whole answer of the request that waits.
async fn wake(machine: &Machine, app: &App<'_>, request: &str, kind: Wake) -> Duration {
    let request = app.send(request).await;
    let begun = Instant::now();
    if kind == Wake::BroughtBack {
        assert!(machine.runtime.bring_back(&app.sandbox).unwrap() > 0);
    }
    machine.runtime.thaw(&app.sandbox).unwrap();
    assert!(app::answer(request).starts_with("sum "));
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn wakes_and_paging_out_are_measured() {
    let _alone = app::alone().await;
    let machine = Machine::new().await;
    app::import(&machine).await;
    let config = SwapConfig { max_bytes: 512 << 20, always_own: true, ..machine.runtime.swap_config() };
    let begun = Instant::now();
    machine.runtime.set_up_paging(config).await.unwrap();
    println!("device made in {:?}", begun.elapsed());
    let app = App::start(&machine, HEAP, |_| {}).await;
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap();
    println!("load before: {}", load().trim());
    for megabytes in [1, 5, 20] {
        let request = format!("touch {}", megabytes << 20);
        let mut times: [Vec<Duration>; 3] = Default::default();
        let (mut outs, mut learned) = (Vec::new(), 0);
        // It may hold another set, which is forgotten first.
        while learned == 0 {
            machine.runtime.freeze(&app.sandbox).await.unwrap();
            machine.runtime.page_out(&app.sandbox).await.unwrap();
            wake(&machine, &app, &request, Wake::Faults).await;
            learned = machine.runtime.record_working_set(&app.sandbox).await.unwrap().bytes;
        }
        for _ in 0..WAKES {
            // In turns, so that the load of the machine meets all alike.
            for kind in [Wake::Frozen, Wake::Faults, Wake::BroughtBack] {
                machine.runtime.freeze(&app.sandbox).await.unwrap();
                if kind != Wake::Frozen {
                    let begun = Instant::now();
                    let paged = machine.runtime.page_out(&app.sandbox).await.unwrap();
                    assert_eq!(paged.end, PageOutEnd::Complete);
                    outs.push(begun.elapsed().div_f64(paged.pushed_bytes as f64 / f64::from(1 << 20)));
                }
                times[kind as usize].push(wake(&machine, &app, &request, kind).await);
            }
        }
        println!("working set {megabytes} MB ({learned} bytes learned):");
        for (kind, times) in [Wake::Frozen, Wake::Faults, Wake::BroughtBack].into_iter().zip(&mut times) {
            times.sort();
            let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| part(times, share));
            println!("  {kind:?}: p50 {p50:.2} ms, p90 {p90:.2}, p99 {p99:.2} (n={})", times.len());
        }
        outs.sort();
        println!("  page out: p50 {:.2} ms per MB, p99 {:.2} (n={})", part(&outs, 0.5), part(&outs, 0.99), outs.len());
    }
    println!("load after: {}", load().trim());
    assert_eq!(app.ask("check").await, "intact");
    machine.finish().await;
}
