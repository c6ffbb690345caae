//! The namespaces of a node: processes, mounts and network. The kernel ends everything in them when
//! their first process ends, and that one is bound to the guardian: shims, mounts, interfaces,
//! routes and packet filters cannot be left behind.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guard::{Guardian, Launch};
use crate::wait::eventually;

/// Says that the first process has prepared everything.
const UP: &str = "up";

/// Its addresses come from the range for benchmarks of networks (RFC 2544), which no real network
/// uses: one /24 a node.
const NETWORK: [u8; 2] = [198, 18];

/// Run by the first process. What the kubelet would set for the whole machine is covered by files
/// that say that it is set already.
const PREPARE: &str = r#"
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=0755 tmpfs /var/log
mount -t tmpfs -o mode=0755 tmpfs /var/lib
mkdir -p "$1"
mount -t tmpfs -o mode=0700 tmpfs "$1"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=/proc/sys/${setting%=*}
  [ -e "$file" ] || continue
  cover=/run/sysctl-$(basename "$file")
  echo "${setting#*=}" > "$cover"
  mount --bind "$cover" "$file"
done
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
touch "$1/up"
exec "$0" reap
"#;

/// The namespaces, by their first process.
pub(crate) struct Space {
    init: u32,
    block: u8,
    dir: PathBuf,
}

/// Whether this machine lets us make namespaces.
pub(crate) fn allowed() -> Result<()> {
    let mut argv = unshare();
    argv.push("true".to_owned());
    run(&argv).context("no namespaces of its own")
}

fn unshare() -> Vec<String> {
    let flags = "unshare --mount --pid --net --fork --kill-child=KILL --mount-proc --propagation private --";
    flags.split(' ').map(str::to_owned).collect()
}

impl Space {
    /// Makes them, and the link that leads there.
    pub(crate) async fn open(guardian: &Guardian) -> Result<Self> {
        let dir = guardian.scratch().join("node");
        std::fs::create_dir_all(&dir).context("no directory for the node")?;
        let mut argv = unshare();
        argv.extend(["sh", "-ec", PREPARE].map(str::to_owned));
        argv.extend([crate::guard::executable()?, dir.clone()].map(|p| p.display().to_string()));
        let launch = Launch { name: "node".to_owned(), argv, ..Launch::default() };
        let process = guardian.spawn(launch).await?;
        let outer = process.pid().context("the node's namespaces are gone")?;
        let prepared = eventually("the node's namespaces", Duration::from_secs(20), || async {
            let init = child_of(outer).context("no first process")?;
            let mut space = Self { init, block: 0, dir: dir.clone() };
            let up = space.outside(&dir.join(UP));
            space.block = if up.exists() { 1 } else { bail!("not prepared") };
            Ok(space)
        });
        let mut space = prepared.await.with_context(|| process.log_tail(10))?;
        space.connect()?;
        Ok(space)
    }

    /// The name of the link decides who has a block of addresses: the kernel gives it out once.
    fn connect(&mut self) -> Result<()> {
        let init = self.init.to_string();
        let first = u8::try_from(self.init % 256)?;
        for step in 0..=255 {
            self.block = first.wrapping_add(step);
            let name = self.interface();
            let add = format!("ip link add {name} type veth peer name eth0 netns {init}");
            match run(&words(&add)) {
                Ok(()) => return self.address(&name),
                Err(error) if error.to_string().contains("exists") => {}
                Err(error) => return Err(error),
            }
        }
        bail!("256 nodes run on this machine already")
    }

    fn address(&self, name: &str) -> Result<()> {
        let (host, node) = (self.host(), self.node());
        run(&words(&format!("ip address add {host}/26 dev {name}")))?;
        run(&words(&format!("ip link set {name} up")))?;
        for command in [
            format!("ip address add {node}/26 dev eth0"),
            "ip link set eth0 up".to_owned(),
            format!("ip route add default via {host}"),
        ] {
            let command = words(&command);
            run(&self.inside(&command.iter().map(String::as_str).collect::<Vec<_>>()))?;
        }
        for range in [self.services(), self.pods()] {
            run(&words(&format!("ip route add {range} via {node} dev {name}")))?;
        }
        Ok(())
    }

    fn at(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(NETWORK[0], NETWORK[1], self.block, last)
    }

    /// This machine's address, as the node sees it.
    pub(crate) fn host(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// The node's address.
    pub(crate) fn node(&self) -> Ipv4Addr {
        self.at(2)
    }

    /// The range of Services.
    pub(crate) fn services(&self) -> String {
        format!("{}/26", self.at(64))
    }

    /// The API server's Service: the first of them.
    pub(crate) fn api_service(&self) -> Ipv4Addr {
        self.at(65)
    }

    /// The range of pods.
    pub(crate) fn pods(&self) -> String {
        format!("{}/25", self.at(128))
    }

    /// This machine's end of the link.
    pub(crate) fn interface(&self) -> String {
        format!("upgrade-{}", self.block)
    }

    /// The node's directory, as the node sees it.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path of the node, as this machine sees it.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.init));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A command line that runs a command in the namespaces.
    pub(crate) fn inside(&self, argv: &[&str]) -> Vec<String> {
        let enter = format!("nsenter --target {} --mount --net --pid --", self.init);
        words(&enter).into_iter().chain(argv.iter().map(|word| (*word).to_owned())).collect()
    }

    /// Whether the first process lives.
    pub(crate) fn alive(&self) -> bool {
        Path::new(&format!("/proc/{}/ns/pid", self.init)).exists()
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn run(argv: &[String]) -> Result<()> {
    let (program, arguments) = argv.split_first().context("no command")?;
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{}: {}", argv.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The one child of a process.
fn child_of(parent: u32) -> Option<u32> {
    let of = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything.
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let all = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| of(*pid) == Some(parent))
}

/// What the first process goes on to be: it takes leave of processes that nobody else waits for.
pub fn reap() -> ! {
    loop {
        if rustix::process::wait(rustix::process::WaitOptions::empty()).is_err() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
