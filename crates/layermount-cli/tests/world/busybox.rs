//! An image with a shell.

use std::path::Path;

use layermount_fixtures::{Layout, Recipe};

use super::{Backing, World, missing, root};

/// Statically linked, so that it runs alone.
const BUSYBOX: &str = "/usr/bin/busybox";

/// Of each layer there is so much that an index over them needs its file.
const RECIPE: &str = r##"
env PATH=/bin GREETING=hello
entrypoint sh -c
cmd "echo from the image"
user guest
workdir /srv
label title=busybox
expose 80/tcp

layer gzip "the shell"
dir  0755 0:0 /
dir  0755 0:0 /bin
copy 0755 0:0 /bin/busybox /usr/bin/busybox
symlink /bin/sh -> busybox

layer plain "the rest"
dir  0755 0:0 /etc
file 0644 0:0 /etc/passwd "root:x:0:0:root:/:/bin/sh\nguest:x:1000:1000:guest:/home:/bin/sh\n"
file 0644 0:0 /etc/group "root:x:0:\nguest:x:1000:\n"
file 0644 0:0 /etc/motd "first\n"
file 0755 0:0 /bin/lost "#!/no/such/interpreter\n"
random 0644 0:0 /etc/rest 80000
dir  0755 1000:1000 /srv

layer gzip "a change of mind"
file 0644 0:0 /etc/motd "second\n"
random 0644 0:0 /etc/more 70000
"##;

impl World {
    /// For root: a store, and the reference of the image, whose entrypoint takes a script.
    pub fn with_shell() -> Option<(Self, String)> {
        Self::new().and_shell("")
    }

    /// The same with layers as they are to be.
    pub fn with_shell_on(backing: Backing) -> Option<(Self, String)> {
        Self::with_backing(backing).and_shell("")
    }

    /// The same with a first line of the recipe, such as `stop-signal SIGINT`.
    pub fn with_shell_and(first_line: &str) -> Option<(Self, String)> {
        Self::new().and_shell(first_line)
    }

    fn and_shell(self, first_line: &str) -> Option<(Self, String)> {
        root()?;
        let layout = self.shell_layout_for(first_line)?;
        Some((self, format!("oci:{layout}:shell")))
    }

    /// Makes the image as `LAYOUT:shell`, and says `LAYOUT`.
    pub fn shell_layout(&self) -> Option<String> {
        self.shell_layout_for("")
    }

    /// The same with another first line, such as `platform linux/arm64`.
    pub fn shell_layout_for(&self, first_line: &str) -> Option<String> {
        if !Path::new(BUSYBOX).exists() {
            missing("docker", "busybox-static is not installed");
            return None;
        }
        let image = Recipe::parse(&format!("{first_line}\nenv {}\n{RECIPE}", self.mark())).unwrap().build().unwrap();
        let directory = self.path().join("layout");
        Layout::create(&directory).unwrap().add("shell", &image).unwrap();
        Some(directory.to_str().unwrap().to_owned())
    }
}
