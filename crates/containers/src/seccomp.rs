//! System call filters: the runtime's default list and OCI profiles, compiled
//! to BPF. Installing one is the shim's matter.

mod default;
mod syscalls;

use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;

pub(crate) use self::default::profile as default_profile;

/// Longest profile, bytes.
const MAX_PROFILE: u64 = 1 << 20;

/// Longest program: the kernel's BPF_MAXINSNS.
const MAX_PROGRAM: usize = 4096;

/// A profile that cannot be used.
#[derive(thiserror::Error, Debug)]
pub(crate) enum SeccompError {
    /// The file cannot be read.
    #[error("seccomp profile {path}")]
    Read {
        /// Its path.
        path: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// It does not say what it should.
    #[error("seccomp profile: {0}")]
    Invalid(String),
}

/// What happens to a call. Values are the kernel's `SECCOMP_RET_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Action(u32);

impl Action {
    /// It is carried out.
    pub(crate) const ALLOW: Self = Self(0x7fff_0000);

    /// It fails with `errno`.
    pub(crate) const fn errno(errno: u16) -> Self {
        Self(0x0005_0000 | errno as u32)
    }
}

/// How an argument is compared; names as in OCI profiles.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// A condition on one argument.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    /// Argument, 0 to 5.
    pub(crate) index: u32,
    /// Compared with; the mask of `MaskedEqual`.
    pub(crate) value: u64,
    /// What `MaskedEqual` expects after masking.
    #[serde(default)]
    pub(crate) value_two: u64,
    /// How.
    pub(crate) op: Operator,
}

/// What happens to some calls, when all conditions hold.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// By name; names that this machine lacks are passed over.
    pub(crate) names: Vec<String>,
    /// What happens.
    pub(crate) action: Action,
    /// All must hold.
    pub(crate) conditions: Vec<Condition>,
}

/// A filter.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// For calls that no rule covers.
    pub(crate) default: Action,
    /// The first that covers a call counts; one without conditions before those with.
    pub(crate) rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciProfile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<OciRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciRule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Condition>>,
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, SeccompError> {
    let errno = errno.unwrap_or(libc::EPERM as u16);
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::ALLOW,
        "SCMP_ACT_ERRNO" => Action::errno(errno),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action(0),
        "SCMP_ACT_KILL_PROCESS" => Action(0x8000_0000),
        "SCMP_ACT_TRAP" => Action(0x0003_0000),
        "SCMP_ACT_TRACE" => Action(0x7ff0_0000 | u32::from(errno)),
        "SCMP_ACT_LOG" => Action(0x7ffc_0000),
        other => return Err(SeccompError::Invalid(format!("action {other:?} is not supported"))),
    })
}

impl Profile {
    /// Reads an OCI profile.
    pub(crate) fn read(path: &Path) -> Result<Self, SeccompError> {
        let failed = |source| SeccompError::Read { path: path.display().to_string(), source };
        let mut bytes = Vec::new();
        std::fs::File::open(path).and_then(|file| file.take(MAX_PROFILE).read_to_end(&mut bytes)).map_err(failed)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, SeccompError> {
        let oci: OciProfile =
            serde_json::from_slice(bytes).map_err(|error| SeccompError::Invalid(error.to_string()))?;
        let rules = oci.syscalls.into_iter().map(|rule| {
            let action = action(&rule.action, rule.errno_ret)?;
            Ok(Rule { names: rule.names, action, conditions: rule.args.unwrap_or_default() })
        });
        Ok(Self {
            default: action(&oci.default_action, oci.default_errno_ret)?,
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// The program as native-endian `sock_filter` bytes.
    // TODO-coverage: 32-bit programs on a 64-bit machine get ENOSYS for every
    // call under any profile, until their system call table is here too.
    pub(crate) fn compile(&self) -> Result<Vec<u8>, SeccompError> {
        let program = assemble(self)?;
        if program.len() > MAX_PROGRAM {
            return Err(SeccompError::Invalid(format!(
                "needs {} instructions, the kernel takes {MAX_PROGRAM}",
                program.len()
            )));
        }
        let bytes = program.iter().flat_map(|Instruction { code, jt, jf, k }| {
            let mut bytes = [0_u8; 8];
            bytes[..2].copy_from_slice(&code.to_ne_bytes());
            (bytes[2], bytes[3]) = (*jt, *jf);
            bytes[4..].copy_from_slice(&k.to_ne_bytes());
            bytes
        });
        Ok(bytes.collect())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Calls of x86-64's 32-bit variant have this bit.
const X32_BIT: u32 = 0x4000_0000;

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn assemble(profile: &Profile) -> Result<Vec<Instruction>, SeccompError> {
    let missing = plain(RETURN, Action::errno(libc::ENOSYS as u16).0);
    let mut program = vec![
        plain(LOAD, OFFSET_ARCHITECTURE),
        Instruction { code: JUMP_EQUAL, jt: 1, jf: 0, k: ARCHITECTURE },
        missing,
        plain(LOAD, OFFSET_NUMBER),
        Instruction { code: JUMP_GREATER_EQUAL, jt: 0, jf: 1, k: X32_BIT },
        missing,
    ];
    // Per call: the action without conditions, or the rules with them.
    let mut fixed = std::collections::BTreeMap::new();
    let mut conditional: std::collections::BTreeMap<u32, Vec<&Rule>> = std::collections::BTreeMap::new();
    for rule in &profile.rules {
        for number in rule.names.iter().filter_map(|name| syscalls::number(name)) {
            if rule.conditions.is_empty() {
                fixed.entry(number).or_insert(rule.action);
            } else {
                conditional.entry(number).or_default().push(rule);
            }
        }
    }
    conditional.retain(|number, _| !fixed.contains_key(number));
    // Runs of numbers with one action cost three instructions each; the kernel
    // caches these answers, so their order does not matter.
    let mut runs: Vec<(u32, u32, Action)> = Vec::new();
    for (number, action) in fixed {
        match runs.last_mut() {
            Some((_, last, same)) if *last + 1 == number && *same == action => *last = number,
            _ => runs.push((number, number, action)),
        }
    }
    for (first, last, action) in runs {
        if first == last {
            program.push(Instruction { code: JUMP_EQUAL, jt: 0, jf: 1, k: first });
        } else {
            program.push(Instruction { code: JUMP_GREATER_EQUAL, jt: 0, jf: 2, k: first });
            program.push(Instruction { code: JUMP_GREATER, jt: 1, jf: 0, k: last });
        }
        program.push(plain(RETURN, action.0));
    }
    for (number, rules) in conditional {
        let mut body = Vec::new();
        for rule in rules {
            body.extend(conditions(rule)?);
        }
        body.push(plain(RETURN, profile.default.0));
        program.push(Instruction { code: JUMP_EQUAL, jt: 1, jf: 0, k: number });
        program.push(plain(JUMP, body.len() as u32));
        program.append(&mut body);
    }
    program.push(plain(RETURN, profile.default.0));
    Ok(program)
}

/// Where a comparison leads.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// The condition holds.
    Holds,
    /// It does not.
    Fails,
}

/// One rule: returns its action when all conditions hold, else runs past it.
fn conditions(rule: &Rule) -> Result<Vec<Instruction>, SeccompError> {
    let mut blocks = Vec::new();
    for condition in &rule.conditions {
        if condition.index > 5 {
            return Err(SeccompError::Invalid(format!("argument {} does not exist", condition.index)));
        }
        blocks.push(comparison(condition));
    }
    let length: usize = blocks.iter().map(Vec::len).sum::<usize>() + 1;
    if length > usize::from(u8::MAX) {
        return Err(SeccompError::Invalid("too many conditions in one rule".to_owned()));
    }
    let mut program = Vec::with_capacity(length);
    for block in blocks {
        let end = program.len() + block.len();
        for (code, k, if_true, if_false) in block {
            let here = program.len() + 1;
            let offset = |to: To| match to {
                To::Next => 0,
                To::Holds => (end - here) as u8,
                To::Fails => (length - here) as u8,
            };
            program.push(Instruction { code, jt: offset(if_true), jf: offset(if_false), k });
        }
    }
    program.push(plain(RETURN, rule.action.0));
    Ok(program)
}

type Step = (u16, u32, To, To);

/// A 64-bit comparison in two halves, the upper first.
fn comparison(condition: &Condition) -> Vec<Step> {
    let offset = OFFSET_ARGUMENTS + 8 * condition.index;
    let (low_at, high_at) = if cfg!(target_endian = "little") { (offset, offset + 4) } else { (offset + 4, offset) };
    let load = |at: u32| (LOAD, at, To::Next, To::Next);
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (high, low) = halves(condition.value);
    match condition.op {
        Operator::Equal => vec![
            load(high_at),
            (JUMP_EQUAL, high, To::Next, To::Fails),
            load(low_at),
            (JUMP_EQUAL, low, To::Next, To::Fails),
        ],
        Operator::NotEqual => vec![
            load(high_at),
            (JUMP_EQUAL, high, To::Next, To::Holds),
            load(low_at),
            (JUMP_EQUAL, low, To::Fails, To::Next),
        ],
        Operator::MaskedEqual => {
            let (expected_high, expected_low) = halves(condition.value_two);
            vec![
                load(high_at),
                (AND, high, To::Next, To::Next),
                (JUMP_EQUAL, expected_high, To::Next, To::Fails),
                load(low_at),
                (AND, low, To::Next, To::Next),
                (JUMP_EQUAL, expected_low, To::Next, To::Fails),
            ]
        }
        Operator::Greater | Operator::GreaterOrEqual => {
            let code = if condition.op == Operator::Greater { JUMP_GREATER } else { JUMP_GREATER_EQUAL };
            vec![
                load(high_at),
                (JUMP_GREATER, high, To::Holds, To::Next),
                (JUMP_EQUAL, high, To::Next, To::Fails),
                load(low_at),
                (code, low, To::Next, To::Fails),
            ]
        }
        Operator::Less | Operator::LessOrEqual => {
            // The opposite of the two above.
            let code = if condition.op == Operator::Less { JUMP_GREATER_EQUAL } else { JUMP_GREATER };
            vec![
                load(high_at),
                (JUMP_GREATER, high, To::Fails, To::Next),
                (JUMP_EQUAL, high, To::Next, To::Holds),
                load(low_at),
                (code, low, To::Fails, To::Next),
            ]
        }
    }
}

#[cfg(test)]
mod tests;
