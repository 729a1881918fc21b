//! What is decided from files alone; the rest is tested on the real kernel.

use super::*;

fn tree(dir: &Path) -> Tree {
    let tree = Tree { sys: dir.join("sys"), proc: dir.join("proc"), dev: dir.join("dev") };
    for path in [&tree.sys.join("class"), &tree.proc.join("sys/kernel/random"), &tree.dev] {
        std::fs::create_dir_all(path).expect("directory");
    }
    std::fs::write(tree.proc.join("meminfo"), "MemTotal:       1048576 kB\nMemFree: 1 kB\n").expect("write");
    std::fs::write(tree.proc.join("sys/kernel/random/boot_id"), "this-boot\n").expect("write");
    std::fs::write(tree.proc.join("swaps"), "Filename Type Size Used Priority\n").expect("write");
    tree
}

fn swaps(tree: &Tree, lines: &str) {
    let text = format!("Filename Type Size Used Priority\n{lines}");
    std::fs::write(tree.proc.join("swaps"), text).expect("write");
}

#[test]
fn without_swap_and_zram_it_is_not_offered_and_says_why() {
    let dir = tempfile::tempdir().expect("directory");
    let config = SwapConfig::new(dir.path().join("swap.json"));
    let tree = tree(dir.path());
    let error = Swap::open_in(tree.clone(), &config).expect_err("no zram");
    assert!(error.to_string().starts_with("paged out is not offered: "), "{error}");
    assert!(error.to_string().contains("modprobe zram"), "{error}");
    let small = SwapConfig { max_bytes: 1 << 20, ..config.clone() };
    let error = Swap::open_in(tree.clone(), &small).expect_err("too small");
    assert!(error.to_string().contains("too small"), "{error}");
    assert!(!config.state.exists());
    // A control file that answers nonsense.
    std::fs::create_dir(tree.sys.join("class/zram-control")).expect("directory");
    std::fs::write(tree.sys.join("class/zram-control/hot_add"), "never\n").expect("write");
    let error = Swap::open_in(tree, &config).expect_err("nonsense");
    assert!(error.to_string().contains("never"), "{error}");
}

#[test]
fn the_machines_swap_is_used_and_never_removed() {
    let dir = tempfile::tempdir().expect("directory");
    let config = SwapConfig::new(dir.path().join("swap.json"));
    let tree = tree(dir.path());
    swaps(&tree, "/dev/vdb partition 1048576 1024 -2\n");
    let swap = Swap::open_in(tree.clone(), &config).expect("the machine's swap");
    assert_eq!((swap.device(), swap.algorithm()), (None, None));
    let free_bytes = (1_048_576 - 1024) << 10;
    let offered = Offered { total_bytes: 1 << 30, free_bytes, held_in_bytes: None, full: false, device: None };
    assert_eq!(swap.offered().expect("offered"), offered);
    swaps(&tree, "/dev/vdb partition 1048576 1048000 -2\n");
    assert!(swap.offered().expect("offered").full);
    remove_in(&tree, &config.state).expect("nothing to remove");
    swaps(&tree, "");
    assert!(swap.offered().expect_err("off").to_string().contains("turned off"));
}

#[test]
fn a_device_of_an_earlier_boot_or_of_someone_else_is_left_alone() {
    let dir = tempfile::tempdir().expect("directory");
    let config = SwapConfig::new(dir.path().join("swap.json"));
    let tree = tree(dir.path());
    swaps(&tree, "/dev/vdb partition 1048576 0 -2\n");
    let block = tree.sys.join("block/zram7");
    std::fs::create_dir_all(&block).expect("directory");
    std::fs::write(block.join("disksize"), "67108864\n").expect("write");
    std::fs::write(tree.dev.join("zram7"), vec![0; 8192]).expect("write");
    for boot_id in ["this-boot", "another-boot"] {
        let record = Record {
            format: FORMAT,
            boot_id: boot_id.into(),
            device: 7,
            uuid: "00112233445566778899aabbccddeeff".into(),
            algorithm: "lz4".into(),
            limit_bytes: 1 << 20,
        };
        save(&config.state, &record).expect("write");
        assert_eq!(Swap::open_in(tree.clone(), &config).expect("open").device(), None);
        remove_in(&tree, &config.state).expect("only the record goes");
        assert!(!config.state.exists() && !block.join("reset").exists());
    }
    std::fs::write(&config.state, r#"{"format":9,"boot_id":"","device":7,"uuid":"","algorithm":"","limit_bytes":0}"#)
        .expect("write");
    assert!(remove_in(&tree, &config.state).expect_err("another version").to_string().contains("version"));
}
