"""The kernel's primitives, one module each: numbers, kernel (thin calls), filters
(seccomp programs), policy (what a job may call), landlock, namespaces."""
