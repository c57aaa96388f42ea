"""Manifests: a JobSet for TPUs on GKE, an sbatch script for GPUs under Slurm."""
# SPDX-License-Identifier: Apache-2.0

import json
import shlex
import sys
from pathlib import Path

from t5x_lite.errors import ConfigError
from t5x_lite.launch.job import Job
from t5x_lite.launch.machines import Machine

GRACE = 300  # seconds between SIGTERM and SIGKILL on Kubernetes: time for a checkpoint
RESTARTS = 100  # of a JobSet: a preemption counts as one
LABELS = 'jobset.sigs.k8s.io/jobset-name', 'batch.kubernetes.io/job-completion-index'
MOUNT = '/bucket'
# As host.sh mounts it: others' files are seen at once, checkpoints are renamed.
OPTIONS = (
    'implicit-dirs',
    'file-system:rename-dir-limit:200000',
    'metadata-cache:ttl-secs:0',
    'metadata-cache:negative-ttl-secs:0',
)
# A run that SIGTERM ended has saved and exits with 0, which launchers take for finished.
GUARD = """\
trap 'stopped=1; kill -TERM "$child"' TERM
{command} &
child=$! status=0
wait "$child" || status=$?
if [ -n "${{stopped:-}}" ]; then
  wait "$child" || true
  exit 143  # saved, not finished
fi
exit "$status"
"""
JOBSET = """\
# kubectl apply -f THIS_FILE; the log of host 0:
#   kubectl logs -f -l {label}
# {hosts} hosts a slice, {chips} chips a host. The cluster needs JobSet and Cloud Storage FUSE.
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool  # a slice each
spec:
  failurePolicy:
    maxRestarts: {restarts}  # a host that is lost or preempted: all start again and resume
  replicatedJobs:
  - name: slice
    replicas: {slices}
    template:
      spec:
        parallelism: {hosts}
        completions: {hosts}
        completionMode: Indexed
        backoffLimit: 0
        template:
          metadata:
            annotations:
              gke-gcsfuse/volumes: "true"
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: {grace}
            serviceAccountName: {account}
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: {accelerator}
              cloud.google.com/gke-tpu-topology: {topology}
{spot}            containers:
            - name: train
              image: {image}
              command: [bash, -c]
              args:
              - |
{script}
              ports:
              - containerPort: 8471  # TPU runtime
              - containerPort: 8476  # coordinator
              resources:
                requests: {{google.com/tpu: {chips}}}
                limits: {{google.com/tpu: {chips}}}
              volumeMounts:
              - {{name: bucket, mountPath: {mount}}}
            volumes:
            - name: bucket
              csi:
                driver: gcsfuse.csi.storage.gke.io
                volumeAttributes:
                  bucketName: {bucket}
                  mountOptions: {options}
"""
SPOT = """\
              cloud.google.com/gke-spot: "true"
            tolerations:
            - {key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}
"""
SBATCH = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --time={time}
#SBATCH --output={name}-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
{more}# One task on each node drives all its GPUs; without this jax would take one GPU a task.
export JAX_LOCAL_DEVICE_IDS={devices}
cd {folder}
task=$(cat <<'END'
{script}END
)
status=0
srun --kill-on-bad-exit=0 bash -c "$task" || status=$?
if [ "$status" = 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"  # time is up, the step is saved: go on in a new allocation
fi
exit "$status"
"""


def jobset(job: Job, machine: Machine, *, image: str, account: str, spot: bool) -> str:
    """A JobSet manifest (YAML) of the run on GKE: a pod for each host, restarted together.

    Raises:
      ConfigError: several slices of one host each, which GKE does not join.
    """
    slices = machine.target.slices
    if slices > 1 and machine.hosts == 1:
        raise ConfigError(
            f'--type={machine.target.name}: GKE joins slices of several hosts only; try larger ones'
        )
    command = ['t5x-lite', *job.arguments, '--run', f'{MOUNT}/{job.folder}', *job.alone]
    script = GUARD.format(command=shlex.join(command))
    return JOBSET.format(
        label=f'{LABELS[0]}={job.name},{LABELS[1]}=0',
        name=job.name,
        restarts=RESTARTS,
        slices=slices,
        hosts=machine.hosts,
        chips=machine.chips_per_host,
        grace=GRACE,
        account=json.dumps(account),
        accelerator=machine.names.label,
        topology=machine.target.shape,
        spot=SPOT if spot else '',
        image=json.dumps(image),
        script='\n'.join(' ' * 16 + line if line else '' for line in script.splitlines()),
        mount=MOUNT,
        bucket=json.dumps(job.bucket),
        options=json.dumps(','.join(OPTIONS)),
    )


def sbatch(job: Job, *, gpus: int, time: str, more: tuple[str, ...]) -> str:
    """A script for sbatch: a task on each node, queued again until the run is finished."""
    train = [
        sys.executable,
        '-m',
        't5x_lite',
        *job.arguments,
        '--run',
        str(Path(job.run).resolve()),
    ]
    script = GUARD.format(command=shlex.join([*train, *job.alone]))
    return SBATCH.format(
        name=job.name,
        nodes=job.hosts,
        gpus=gpus,
        time=time,
        more=''.join(f'#SBATCH {option}\n' for option in more),
        devices=','.join(map(str, range(gpus))),
        folder=shlex.quote(str(Path.cwd())),
        script=script,
    )
