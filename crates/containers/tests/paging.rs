//! Memory of frozen sandboxes goes to swap and comes back, on the real kernel
//! with a zram device of the test. Needs root and a kernel with zram.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(missing_docs, unreachable_pub, dead_code)]

#[path = "support/app.rs"]
mod app;
#[path = "support/machine.rs"]
mod machine;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use app::App;
use containers::runtime::paging::{PageOutEnd, PagedOut};
use containers::runtime::{ContainerState, Runtime as _, RuntimeError};
use containers::swap::SwapConfig;
use machine::Machine;

const MB: u64 = 1 << 20;

/// The program of the sandboxes is this one, started with this test's name.
#[test]
fn the_heap_is_what_was_put_there() {
    app::serve_if_inside();
    let mut heap = app::Heap::new(1 << 20);
    heap.touch(1 << 20);
    assert_eq!(heap.damage(), None);
}

async fn set_up(machine: &Machine, bytes: u64) -> PathBuf {
    let config = SwapConfig {
        max_bytes: bytes,
        memory_limit_bytes: Some(bytes),
        always_own: true,
        ..machine.runtime.swap_config()
    };
    machine.runtime.set_up_paging(config).await.unwrap();
    let device = machine.runtime.swap().await.unwrap().device.expect("a device of our own");
    assert!(is_on(&device));
    device
}

async fn machine(swap_bytes: u64) -> (Machine, PathBuf) {
    let machine = Machine::new().await;
    app::import(&machine).await;
    let device = set_up(&machine, swap_bytes).await;
    (machine, device)
}

fn is_on(device: &Path) -> bool {
    std::fs::read_to_string("/proc/swaps").unwrap().contains(&format!("{} ", device.display()))
}

/// Removes everything, the device as well.
async fn finish(machine: Machine, device: &Path) {
    machine.finish().await;
    let block = Path::new("/sys/block").join(device.file_name().unwrap());
    assert!(!is_on(device) && !block.exists(), "{} stays", device.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_goes_to_swap_and_comes_back_intact() {
    let _alone = app::alone().await;
    let (machine, device) = machine(512 * MB).await;
    machine.runtime.paging().unwrap();
    let app = App::start(&machine, 200 << 20, |_| {}).await;
    let before = app.resident();
    assert!(before > 200 * MB);
    let error = machine.runtime.page_out(&app.sandbox).await.unwrap_err();
    assert!(matches!(error, RuntimeError::State { needed: "frozen", .. }), "{error:?}");
    machine.runtime.freeze(&app.sandbox).await.unwrap();
    let begun = Instant::now();
    let paged = machine.runtime.page_out(&app.sandbox).await.unwrap();
    println!("{paged:?} in {:?}", begun.elapsed());
    assert_eq!((paged.end, paged.processes), (PageOutEnd::Complete, 1));
    assert!(app.resident() * 10 < before, "{} of {before} bytes are left", app.resident());
    assert!(paged.swapped_bytes > 195 * MB && paged.pushed_bytes > 195 * MB, "{paged:?}");
    let held = paged.held_in_bytes.unwrap();
    assert!(held > 90 * MB && held < 150 * MB, "half of it compresses: {held}");
    assert!(machine.runtime.stats(&app.container).await.unwrap().swap_bytes > 195 * MB);
    let request = app.send("check").await;
    machine.runtime.thaw(&app.sandbox).unwrap();
    assert_eq!(app::answer(request), "intact");
    // Again, with what came back still known to the swap.
    machine.runtime.freeze(&app.sandbox).await.unwrap();
    machine.runtime.page_out(&app.sandbox).await.unwrap();
    assert!(app.resident() * 10 < before);
    machine.runtime.thaw(&app.sandbox).unwrap();
    assert_eq!(app.ask("check").await, "intact");
    finish(machine, &device).await;
}

/// Pages the app out and wakes it once it has lost 5 MB.
async fn wake_during_paging_out(machine: &Machine, app: &App<'_>) -> PagedOut {
    machine.runtime.freeze(&app.sandbox).await.unwrap();
    let (request, before) = (app.send("touch 4096").await, app.resident());
    let paging = {
        let (runtime, sandbox) = (machine.runtime.clone(), app.sandbox.clone());
        tokio::spawn(async move { runtime.page_out(&sandbox).await })
    };
    while app.resident() + 5 * MB > before {
        assert!(!paging.is_finished(), "it ended first");
    }
    let begun = Instant::now();
    machine.runtime.thaw(&app.sandbox).unwrap();
    let thawed = begun.elapsed();
    assert!(app::answer(request).starts_with("sum "));
    let answered = begun.elapsed();
    let paged = paging.await.unwrap().unwrap();
    println!("thaw {thawed:?}, answer {answered:?}, page_out ended after {:?}: {paged:?}", begun.elapsed());
    assert_eq!(paged.end, PageOutEnd::Woken);
    assert!(thawed < Duration::from_millis(50), "{thawed:?}");
    paged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_during_paging_out_does_not_wait_for_it() {
    let _alone = app::alone().await;
    let (machine, device) = machine(512 * MB).await;
    let app = App::start(&machine, 100 << 20, |_| {}).await;
    let paged = wake_during_paging_out(&machine, &app).await;
    assert!(paged.pushed_bytes < 90 * MB, "{paged:?}");
    assert_eq!(app.ask("check").await, "intact");
    finish(machine, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_woken_at_any_instant_is_intact() {
    const ROUNDS: usize = 100;
    let _alone = app::alone().await;
    let (machine, device) = machine(256 * MB).await;
    let app = App::start(&machine, 20 << 20, |config| config.env.push(("PROCESSES".into(), "2".into()))).await;
    let mut ends = Vec::new();
    for round in 0..ROUNDS {
        machine.runtime.freeze(&app.sandbox).await.unwrap();
        let request = app.send("touch 2097152").await;
        let paging = {
            let (runtime, sandbox) = (machine.runtime.clone(), app.sandbox.clone());
            tokio::spawn(async move { runtime.page_out(&sandbox).await })
        };
        // Some time, another one in every round: from none to all that it takes.
        for _ in 0..round * 37 % 101 * 10 {
            app.resident();
        }
        machine.runtime.bring_back(&app.sandbox).unwrap();
        machine.runtime.thaw(&app.sandbox).unwrap();
        assert!(app::answer(request).starts_with("sum "));
        match paging.await.unwrap() {
            Ok(paged) => ends.push(paged.end),
            Err(error) => assert!(matches!(error, RuntimeError::State { .. }), "{error:?}"),
        }
        machine.runtime.record_working_set(&app.sandbox).await.unwrap();
    }
    let count = |end| ends.iter().filter(|have| **have == end).count();
    println!("{} complete, {} woken of {ROUNDS}", count(PageOutEnd::Complete), count(PageOutEnd::Woken));
    assert_eq!(app.ask("check").await, "intact");
    finish(machine, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_swap_ends_it_and_harms_nothing() {
    let _alone = app::alone().await;
    let (machine, device) = machine(64 * MB).await;
    let app = App::start(&machine, 90 << 20, |_| {}).await;
    machine.runtime.freeze(&app.sandbox).await.unwrap();
    let paged = machine.runtime.page_out(&app.sandbox).await.unwrap();
    assert_eq!(paged.end, PageOutEnd::SwapFull);
    assert!(paged.pushed_bytes > 40 * MB && paged.swapped_bytes < 64 * MB, "{paged:?}");
    assert!(machine.runtime.swap().await.unwrap().full);
    let again = machine.runtime.page_out(&app.sandbox).await.unwrap();
    assert_eq!((again.end, again.pushed_bytes), (PageOutEnd::SwapFull, 0));
    machine.runtime.thaw(&app.sandbox).unwrap();
    assert_eq!(app.ask("check").await, "intact");
    finish(machine, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_at_its_memory_limit_counts_as_full() {
    let _alone = app::alone().await;
    let machine = Machine::new().await;
    app::import(&machine).await;
    let config = SwapConfig {
        max_bytes: 512 * MB,
        memory_limit_bytes: Some(32 * MB),
        always_own: true,
        ..machine.runtime.swap_config()
    };
    machine.runtime.set_up_paging(config).await.unwrap();
    let app = App::start(&machine, 100 << 20, |_| {}).await;
    machine.runtime.freeze(&app.sandbox).await.unwrap();
    let paged = machine.runtime.page_out(&app.sandbox).await.unwrap();
    let swap = machine.runtime.swap().await.unwrap();
    assert_eq!(paged.end, PageOutEnd::SwapFull, "{paged:?}");
    assert!(swap.held_in_bytes.unwrap() <= 32 * MB && swap.free_bytes > 300 * MB, "{swap:?}");
    machine.runtime.thaw(&app.sandbox).unwrap();
    assert_eq!(app.ask("check").await, "intact");
    finish(machine, &swap.device.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_finds_the_device_and_what_is_paged_out() {
    let _alone = app::alone().await;
    let (mut machine, device) = machine(512 * MB).await;
    let (sandbox, container, pid) = {
        let app = App::start(&machine, 50 << 20, |_| {}).await;
        machine.runtime.freeze(&app.sandbox).await.unwrap();
        machine.runtime.page_out(&app.sandbox).await.unwrap();
        (app.sandbox, app.container, app.pid)
    };
    machine = machine.restart().await;
    let reason = machine.runtime.paging().unwrap_err();
    assert!(reason.starts_with("paged out is not offered: "), "{reason}");
    let error = machine.runtime.page_out(&sandbox).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotOffered { .. }), "{error:?}");
    // Another size: what is there is kept.
    assert_eq!(set_up(&machine, 256 * MB).await, device);
    assert_eq!(machine.runtime.swap().await.unwrap().total_bytes, 512 * MB - 4096);
    assert!(machine.runtime.stats(&container).await.unwrap().swap_bytes > 45 * MB);
    machine.runtime.bring_back(&sandbox).unwrap();
    machine.runtime.thaw(&sandbox).unwrap();
    let state = machine.runtime.container(&container).await.unwrap().state;
    assert!(matches!(state, ContainerState::Running { pid: now, .. } if now == pid), "{state:?}");
    finish(machine, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_used_comes_back_before_it_runs() {
    let _alone = app::alone().await;
    let (machine, device) = machine(512 * MB).await;
    let app = App::start(&machine, 50 << 20, |_| {}).await;
    let sleep = async || {
        machine.runtime.freeze(&app.sandbox).await.unwrap();
        let paged = machine.runtime.page_out(&app.sandbox).await.unwrap();
        assert_eq!(paged.end, PageOutEnd::Complete);
    };
    let used = machine.runtime.record_working_set(&app.sandbox).await.unwrap();
    assert_eq!(used.bytes, 0, "it was never paged out");
    sleep().await;
    assert_eq!(machine.runtime.bring_back(&app.sandbox).unwrap(), 0, "nothing is known yet");
    machine.runtime.thaw(&app.sandbox).unwrap();
    app.ask("touch 5242880").await;
    let mut used = machine.runtime.record_working_set(&app.sandbox).await.unwrap();
    assert!(used.bytes > 5 * MB && used.bytes < 8 * MB, "{used:?}");
    assert_eq!(machine.runtime.bring_back(&app.sandbox).unwrap(), 0, "it is awake");
    for _ in 0..3 {
        sleep().await;
        let before = app.resident();
        let back = machine.runtime.bring_back(&app.sandbox).unwrap();
        assert_eq!(back, used.bytes);
        assert!(app.resident() > before + 5 * MB - 256 * 1024, "{before} then {}", app.resident());
        machine.runtime.thaw(&app.sandbox).unwrap();
        app.ask("touch 5242880").await;
        used = machine.runtime.record_working_set(&app.sandbox).await.unwrap();
        assert!(used.bytes >= 5 * MB && used.bytes < 8 * MB, "{used:?}");
    }
    // Far more than it was: brought back in vain or used, nobody can tell.
    sleep().await;
    machine.runtime.bring_back(&app.sandbox).unwrap();
    machine.runtime.thaw(&app.sandbox).unwrap();
    app.ask("touch 20971520").await;
    assert_eq!(machine.runtime.record_working_set(&app.sandbox).await.unwrap().bytes, 0);
    // More than is worth waiting for.
    sleep().await;
    machine.runtime.thaw(&app.sandbox).unwrap();
    assert_eq!(app.ask("check").await, "intact");
    assert_eq!(machine.runtime.record_working_set(&app.sandbox).await.unwrap().bytes, 0);
    finish(machine, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_ended_are_passed_by() {
    let _alone = app::alone().await;
    let (machine, device) = machine(512 * MB).await;
    let app = App::start(&machine, 20 << 20, |_| {}).await;
    machine.runtime.freeze(&app.sandbox).await.unwrap();
    machine.runtime.page_out(&app.sandbox).await.unwrap();
    machine.runtime.thaw(&app.sandbox).unwrap();
    app.ask("touch 5242880").await;
    assert!(machine.runtime.record_working_set(&app.sandbox).await.unwrap().bytes > 5 * MB);
    machine.runtime.freeze(&app.sandbox).await.unwrap();
    machine.runtime.page_out(&app.sandbox).await.unwrap();
    machine.runtime.stop_container(&app.container, Duration::ZERO).await.unwrap();
    assert_eq!(machine.runtime.bring_back(&app.sandbox).unwrap(), 0);
    machine.runtime.freeze(&app.sandbox).await.unwrap();
    let paged = machine.runtime.page_out(&app.sandbox).await.unwrap();
    assert_eq!((paged.end, paged.processes), (PageOutEnd::Complete, 0));
    finish(machine, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_paged_out_a_few_at_a_time_and_a_wake_takes_one_out_of_the_queue() {
    let _alone = app::alone().await;
    let (machine, device) = machine(256 * MB).await;
    let mut apps = Vec::new();
    for _ in 0..8 {
        apps.push(App::start(&machine, 8 << 20, |_| {}).await);
    }
    for app in &apps {
        machine.runtime.freeze(&app.sandbox).await.unwrap();
    }
    let (last, others) = apps.split_last().unwrap();
    let outs = others.iter().map(|app| machine.runtime.page_out(&app.sandbox));
    let (outs, last_out, ()) =
        tokio::join!(futures_util::future::join_all(outs), machine.runtime.page_out(&last.sandbox), async {
            machine.runtime.thaw(&last.sandbox).unwrap()
        });
    for out in outs {
        assert_eq!(out.unwrap().end, PageOutEnd::Complete);
    }
    let last_out = last_out.unwrap();
    assert_eq!((last_out.end, last_out.pushed_bytes), (PageOutEnd::Woken, 0));
    for app in &apps {
        machine.runtime.thaw(&app.sandbox).unwrap();
        assert_eq!(app.ask("check").await, "intact");
    }
    finish(machine, &device).await;
}

/// A limit on memory and one on memory and swap together, both barely above
/// what the app has.
#[tokio::test(flavor = "multi_thread")]
async fn a_memory_limit_neither_kills_nor_swaps_an_app_that_is_paged_out() {
    let _alone = app::alone().await;
    let (machine, device) = machine(512 * MB).await;
    let app = App::start(&machine, 60 << 20, |config| config.resources.memory_limit_bytes = Some(72 << 20)).await;
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", app.pid)).unwrap();
    let group = groups.lines().find_map(|line| line.split_once(":memory:")).map(|(_, path)| path.to_owned());
    if let Some(group) = group {
        let limit = Path::new("/sys/fs/cgroup/memory").join(group.trim_start_matches('/'));
        std::fs::write(limit.join("memory.memsw.limit_in_bytes"), (72 << 20).to_string()).unwrap();
    }
    for _ in 0..3 {
        machine.runtime.freeze(&app.sandbox).await.unwrap();
        let paged = machine.runtime.page_out(&app.sandbox).await.unwrap();
        assert_eq!(paged.end, PageOutEnd::Complete);
        assert!(paged.swapped_bytes > 55 * MB, "{paged:?}");
        let request = app.send("check").await;
        machine.runtime.thaw(&app.sandbox).unwrap();
        assert_eq!(app::answer(request), "intact");
    }
    // Beyond its limit it is killed as if there were no swap.
    let greedy = machine.create(&app.sandbox, "", |config| {
        config.image = app::IMAGE.into();
        config.command = ["/app", "--exact", "the_heap_is_what_was_put_there"].map(str::to_owned).to_vec();
        config.env = vec![("HEAP_BYTES".into(), (60 << 20).to_string())];
        config.resources.memory_limit_bytes = Some(16 << 20);
    });
    let greedy = greedy.await;
    machine.runtime.start_container(&greedy).await.unwrap();
    let state = machine.ended(&greedy).await.state;
    let ContainerState::Exited { exit_code, reason, .. } = state else { panic!("{state:?}") };
    assert_eq!((exit_code, reason.as_str()), (137, "OOMKilled"));
    finish(machine, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_processes_share_after_a_fork_is_paged_out_too() {
    let _alone = app::alone().await;
    let (machine, device) = machine(512 * MB).await;
    let app = App::start(&machine, 60 << 20, |config| config.env.push(("PROCESSES".into(), "3".into()))).await;
    wake_during_paging_out(&machine, &app).await;
    assert_eq!(app.ask("check").await, "intact");
    for _ in 0..2 {
        machine.runtime.freeze(&app.sandbox).await.unwrap();
        let begun = Instant::now();
        let paged = machine.runtime.page_out(&app.sandbox).await.unwrap();
        println!("{paged:?} in {:?}", begun.elapsed());
        assert_eq!((paged.end, paged.processes), (PageOutEnd::Complete, 3));
        assert!(paged.resident_before_bytes < 80 * MB, "shared pages count once: {paged:?}");
        assert!(paged.resident_after_bytes * 10 < paged.resident_before_bytes, "{paged:?}");
        assert!(paged.swapped_bytes > 58 * MB, "{paged:?}");
        let request = app.send("check").await;
        machine.runtime.thaw(&app.sandbox).unwrap();
        assert_eq!(app::answer(request), "intact");
    }
    finish(machine, &device).await;
}
