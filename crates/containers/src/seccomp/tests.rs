//! The programs are run by a small interpreter of classic BPF, so that what a
//! filter answers is tested and not how it is written.

use super::*;

fn answer(program: &[Instruction], number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [0_u8; 64];
    data[..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&ARCHITECTURE.to_ne_bytes());
    for (index, argument) in arguments.iter().enumerate() {
        data[16 + 8 * index..24 + 8 * index].copy_from_slice(&argument.to_ne_bytes());
    }
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            LOAD => accumulator = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            AND => accumulator &= k,
            JUMP => at += k as usize,
            JUMP_EQUAL => jump(accumulator == k),
            JUMP_GREATER => jump(accumulator > k),
            JUMP_GREATER_EQUAL => jump(accumulator >= k),
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
        at += 1;
    }
}

fn call(profile: &Profile, name: &str, first: u64) -> u32 {
    let number = syscalls::number(name).unwrap();
    answer(&assemble(profile).unwrap(), number, [first, 0, 0, 0, 0, 0])
}

#[test]
fn the_default_allows_programs_and_refuses_the_machine() {
    let profile = default_profile(crate::capability::DEFAULT);
    let refused = Action::errno(libc::EPERM as u16).0;
    for name in ["read", "execve", "futex", "ptrace", "chroot", "statx", "close_range", "openat2"] {
        assert_eq!(call(&profile, name, 0), Action::ALLOW.0, "{name}");
    }
    for name in [
        "mount",
        "bpf",
        "unshare",
        "setns",
        "keyctl",
        "add_key",
        "io_uring_setup",
        "reboot",
        "init_module",
        "userfaultfd",
    ] {
        assert_eq!(call(&profile, name, 0), refused, "{name}");
    }
    assert_eq!(call(&profile, "clone", libc::CLONE_NEWUSER as u64), refused);
    assert_eq!(call(&profile, "clone", libc::SIGCHLD as u64), Action::ALLOW.0);
    assert_eq!(call(&profile, "clone3", 0), Action::errno(libc::ENOSYS as u16).0);
    assert_eq!(call(&profile, "socket", libc::AF_VSOCK as u64), refused);
    assert_eq!(call(&profile, "socket", libc::AF_INET as u64), Action::ALLOW.0);
    assert_eq!(call(&profile, "personality", 8), Action::ALLOW.0);
    assert_eq!(call(&profile, "personality", 0x0004_0000), refused);
    let admin = default_profile(1 << 21);
    for name in ["mount", "unshare", "clone3", "setns"] {
        assert_eq!(call(&admin, name, libc::CLONE_NEWUSER as u64), Action::ALLOW.0, "{name}");
    }
    assert_eq!(call(&admin, "chroot", 0), refused);
}

#[test]
fn conditions_compare_whole_arguments() {
    let big = 0x1_0000_0005_u64;
    for (op, value, value_two, holds, fails) in [
        (Operator::Equal, big, 0, vec![big], vec![5, big + 1, big + (1 << 32)]),
        (Operator::NotEqual, big, 0, vec![5, big + 1], vec![big]),
        (Operator::Greater, big, 0, vec![big + 1, 2 << 32], vec![big, 6, 0]),
        (Operator::GreaterOrEqual, big, 0, vec![big, 2 << 32], vec![big - 1, 6]),
        (Operator::Less, big, 0, vec![0, 6, big - 1], vec![big, 2 << 32]),
        (Operator::LessOrEqual, big, 0, vec![0, big], vec![big + 1, 2 << 32]),
        (Operator::MaskedEqual, 0xff_0000_00ff, 0x01_0000_0002, vec![0x01_0000_0102], vec![0x01_0000_0003, 2]),
    ] {
        let condition = Condition { index: 0, value, value_two, op };
        let rule = Rule { names: vec!["read".into()], action: Action(1), conditions: vec![condition] };
        let profile = Profile { default: Action(2), rules: vec![rule] };
        for argument in holds {
            assert_eq!(call(&profile, "read", argument), 1, "{op:?} {argument:#x}");
        }
        for argument in fails {
            assert_eq!(call(&profile, "read", argument), 2, "{op:?} {argument:#x}");
        }
    }
}

#[test]
fn an_oci_profile_is_read() {
    let text = br#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
        {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
        {"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS", "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]}]}"#;
    let profile = Profile::parse(text).unwrap();
    assert_eq!(call(&profile, "mkdirat", 0), Action::errno(13).0);
    assert_eq!(call(&profile, "kill", 0), Action::ALLOW.0);
    let program = assemble(&profile).unwrap();
    assert_eq!(answer(&program, syscalls::number("kill").unwrap(), [0, 9, 0, 0, 0, 0]), 0x8000_0000);
    assert!(Profile::parse(br#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#).is_err());
    assert!(Profile::parse(b"{}").is_err());
}
