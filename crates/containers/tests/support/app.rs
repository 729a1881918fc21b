//! A server with a heap of known content, for tests of paging: it runs inside
//! a sandbox, from the test program itself, and answers what it finds in its
//! memory.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use containers::runtime::{ContainerConfig, ContainerId, ContainerState, Mount, Runtime as _, SandboxId};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::machine::{self, Machine};

pub const IMAGE: &str = "test.local/app:1";

/// Where it listens.
const PORT: u16 = 7000;

/// The socket of the test that hears when it listens.
const READY: &str = "/ready";

const PAGE: usize = 4096;

/// Memory whose every byte is known: half of it does not compress, half does.
pub struct Heap {
    words: Vec<u64>,
}

impl Heap {
    pub fn new(bytes: usize) -> Self {
        let count = bytes / 8;
        Self { words: (0..count).map(|index| word(index, count)).collect() }
    }

    /// The first word that is not what it was.
    pub fn damage(&self) -> Option<usize> {
        let count = self.words.len();
        (0..count).find(|index| self.words[*index] != word(*index, count))
    }

    /// Reads and writes one word of each of the first pages, not in order.
    pub fn touch(&mut self, bytes: usize) -> u64 {
        let (pages, step, count) = (bytes / PAGE, PAGE / 8, self.words.len());
        let mut sum = 0_u64;
        for number in 0..pages {
            // From the compressible half first, as most of a heap is.
            let index = (count / 2 + (number * 7919 % pages) * step) % count;
            sum = sum.wrapping_add(self.words[index]);
            self.words[index] = std::hint::black_box(self.words[index]);
        }
        sum
    }
}

fn word(index: usize, count: usize) -> u64 {
    if index < count / 2 {
        let mixed = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 32)
    } else {
        (index as u64 / 4) & 0xFFFF
    }
}

/// Serves for ever: `check`, `touch BYTES`. Other processes share its memory.
pub fn serve(bytes: usize, processes: usize) -> ! {
    let mut heap = Heap::new(bytes);
    for _ in 1..processes {
        // SAFETY: the child only waits, and touches nothing that another
        // thread of its parent might hold.
        #[expect(unsafe_code, reason = "a fork without exec is what is tested")]
        unsafe {
            if libc::fork() == 0 {
                loop {
                    libc::pause();
                }
            }
        }
    }
    let listener = TcpListener::bind(("127.0.0.1", PORT)).expect("listen");
    drop(UnixStream::connect(READY).expect("say that it serves"));
    for stream in listener.incoming().flatten() {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("read");
        let answer = match line.trim().split_once(' ') {
            Some(("touch", bytes)) => format!("sum {}", heap.touch(bytes.parse().expect("bytes"))),
            _ => heap.damage().map_or("intact".to_owned(), |index| format!("word {index} is damaged")),
        };
        (&stream).write_all(answer.as_bytes()).expect("write");
    }
    unreachable!("incoming never ends")
}

/// Adds the image: this program and the libraries that it is linked to.
pub async fn import(machine: &Machine) {
    use tar::EntryType::{Directory, Regular};
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["tmp", "proc", "dev", "etc"] {
        machine::add(&mut tar, dir, Directory, 0o1777, b"");
    }
    let program = std::fs::read("/proc/self/exe").expect("this program");
    machine::add(&mut tar, "app", Regular, 0o755, &program);
    for library in libraries() {
        let content = std::fs::read(&library).expect("library");
        machine::add(&mut tar, library.trim_start_matches('/'), Regular, 0o755, &content);
        // The loader is named by the program, and looks in few places.
        let name = Path::new(&library).file_name().and_then(|name| name.to_str()).expect("name");
        for dir in ["lib64", "lib"] {
            let path = format!("{dir}/{name}");
            if path != library.trim_start_matches('/') {
                machine::add(&mut tar, &path, Regular, 0o755, &content);
            }
        }
    }
    let archive = machine.dir.path().join("app.tar");
    let layer = tar.into_inner().expect("tar");
    machine::docker_archive(&archive, IMAGE, &layer, serde_json::json!({}));
    machine.runtime.import_image(&archive).await.expect("import");
}

/// What the loader mapped into this process.
fn libraries() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let paths = maps.lines().filter_map(|line| line.splitn(6, ' ').nth(5)).map(str::trim_start);
    let mut libraries: Vec<String> = paths.filter(|path| path.contains(".so")).map(str::to_owned).collect();
    libraries.sort();
    libraries.dedup();
    libraries
}

/// The server in a sandbox.
pub struct App<'a> {
    machine: &'a Machine,
    pub sandbox: SandboxId,
    pub container: ContainerId,
    pub pid: u32,
}

impl<'a> App<'a> {
    /// Starts it with so many bytes of heap, and waits until it serves.
    pub async fn start(machine: &'a Machine, bytes: usize, change: impl FnOnce(&mut ContainerConfig)) -> Self {
        let sandbox = machine.sandbox().await;
        let socket = machine.dir.path().join("ready");
        let ready = tokio::net::UnixListener::bind(&socket).expect("listen");
        let container = machine
            .run(&sandbox, "", |config| {
                config.image = IMAGE.into();
                let arguments =
                    ["/app", "--exact", "the_heap_is_what_was_put_there", "--nocapture", "--test-threads=1"];
                config.command = arguments.map(str::to_owned).to_vec();
                config.env = vec![("HEAP_BYTES".into(), bytes.to_string())];
                let mount = Mount { container_path: READY.into(), host_path: socket.clone(), ..Mount::default() };
                config.mounts = vec![mount];
                change(config);
            })
            .await;
        let (status, serves) = (machine.runtime.container(&container).await.expect("status"), ready.accept());
        let ContainerState::Running { pid, .. } = status.state else { panic!("{:?}", status.state) };
        tokio::select! {
            served = serves => drop(served.expect("the app says that it serves")),
            ended = machine.ended(&container) => panic!("{:?} {}", ended.state, machine::log_text(&ended.log_path)),
        }
        std::fs::remove_file(socket).expect("remove the socket");
        Self { machine, sandbox, container, pid }
    }

    /// Sends a request. The kernel takes it while the app sleeps: the
    /// connection is made from inside the sandbox's network, past the runtime,
    /// which would wake it.
    pub async fn send(&self, request: &str) -> TcpStream {
        let status = self.machine.runtime.sandbox(&self.sandbox).await.expect("status");
        let netns = std::fs::File::open(status.netns.expect("a network of its own")).expect("open the network");
        let request = format!("{request}\n");
        let connect = move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter the network");
            let mut stream = TcpStream::connect(("127.0.0.1", PORT)).expect("connect");
            stream.write_all(request.as_bytes()).expect("send");
            stream
        };
        // A thread of its own: it never comes back from there.
        std::thread::spawn(connect).join().expect("connect")
    }

    /// Sends a request and waits for the answer.
    pub async fn ask(&self, request: &str) -> String {
        answer(self.send(request).await)
    }

    /// Bytes of it in RAM, as the kernel counts them.
    pub fn resident(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("status");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        line.expect("VmRSS").parse::<u64>().expect("number") * 1024
    }
}

/// Waits for the answer.
pub fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answer");
    text
}

/// Swap belongs to the whole machine: one test at a time, also of other runs.
pub async fn alone() -> std::fs::File {
    let path = std::env::temp_dir().join("darter-paging-tests.lock");
    let file = std::fs::File::create(path).expect("lock file");
    tokio::task::spawn_blocking(move || {
        file.lock().expect("lock");
        file
    })
    .await
    .expect("lock")
}

/// Runs the server when this program was started inside of a sandbox.
pub fn serve_if_inside() {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok());
    if let Some(bytes) = number("HEAP_BYTES") {
        serve(bytes, number("PROCESSES").unwrap_or(1));
    }
}
