//! Which device nodes the processes of a group may use: the devices
//! controller of v1, a BPF program on v2.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use super::Cgroups;
use crate::sys;

/// One allowed device. `None` stands for every number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    /// Block device (else character).
    pub(crate) block: bool,
    /// Device number.
    pub(crate) major: Option<u32>,
    /// Device number.
    pub(crate) minor: Option<u32>,
    /// Of `rwm`.
    pub(crate) access: String,
}

/// What every container may use: making nodes, the standard devices, terminals.
fn standard() -> Vec<DeviceRule> {
    let rule = |block, major, minor, access: &str| DeviceRule { block, major, minor, access: access.to_owned() };
    let mut rules =
        vec![rule(false, None, None, "m"), rule(true, None, None, "m"), rule(false, Some(136), None, "rwm")];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(false, Some(major), Some(minor), "rwm"));
    }
    rules
}

impl Cgroups {
    /// Allows the standard devices and `extra`, nothing else. Call once, before
    /// a process is in the group.
    pub(crate) fn allow_devices(&self, path: &str, extra: &[DeviceRule]) -> io::Result<()> {
        let mut rules = standard();
        rules.extend_from_slice(extra);
        if let Some(dir) = self.controller("devices", path) {
            std::fs::write(dir.join("devices.deny"), "a")?;
            for rule in &rules {
                let kind = if rule.block { 'b' } else { 'c' };
                let number = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
                let line = format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), rule.access);
                std::fs::write(dir.join("devices.allow"), line)?;
            }
            return Ok(());
        }
        match self.unified(path) {
            Some(dir) if self.v2_only => sys::attach_device_program(File::open(dir)?.as_fd(), &program(&rules)),
            _ => Ok(()),
        }
    }
}

const TYPE_BLOCK: u32 = 1;
const TYPE_CHARACTER: u32 = 2;

fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | (u64::from(dst) << 8)
        | (u64::from(src) << 12)
        | (u64::from(offset as u16) << 16)
        | (u64::from(immediate as u32) << 32)
}

/// The rules as a BPF program: returns 1 at the first rule that covers the
/// access, else 0. Context: `access_type` (access << 16 | type), `major`, `minor`.
fn program(rules: &[DeviceRule]) -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const MOVE_REGISTER: u8 = 0xbc;
    const MOVE: u8 = 0xb4;
    const AND: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const JUMP_NOT_EQUAL: u8 = 0x56;
    const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5e;
    const EXIT: u8 = 0x95;
    // r2 type, r3 access, r4 major, r5 minor; r6 scratch.
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.block { TYPE_BLOCK } else { TYPE_CHARACTER };
        let bits = [('m', 1), ('r', 2), ('w', 4)].iter().filter(|(letter, _)| rule.access.contains(*letter));
        let allowed: i32 = bits.map(|(_, bit)| bit).sum();
        // Each test jumps past the rule's end when it fails; offsets follow
        // once the length is known.
        let mut tests = vec![
            instruction(JUMP_NOT_EQUAL, 2, 0, 0, kind as i32),
            instruction(MOVE_REGISTER, 6, 3, 0, 0),
            instruction(AND, 6, 0, 0, allowed),
            instruction(JUMP_NOT_EQUAL_REGISTER, 6, 3, 0, 0),
        ];
        for (register, value) in [(4, rule.major), (5, rule.minor)] {
            if let Some(value) = value {
                tests.push(instruction(JUMP_NOT_EQUAL, register, 0, 0, value as i32));
            }
        }
        let length = tests.len() + 2;
        for (index, test) in tests.into_iter().enumerate() {
            let jump = matches!(test as u8, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER);
            let offset = if jump { (length - index - 1) as u64 } else { 0 };
            code.push(test | (offset << 16));
        }
        code.push(instruction(MOVE, 0, 0, 0, 1));
        code.push(instruction(EXIT, 0, 0, 0, 0));
    }
    code.push(instruction(MOVE, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}
