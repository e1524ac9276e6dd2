"""Sides on PyTorch: a lean one, and one structured like PFLlib."""

import copy
import os

import numpy as np
import torch
import torch.nn.functional as F
from engine import workloads
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# The same precision as JAX.
_TF32 = os.environ.get('JAX_DEFAULT_MATMUL_PRECISION') != 'highest'
torch.backends.cuda.matmul.allow_tf32 = _TF32
torch.backends.cudnn.allow_tf32 = _TF32
torch.backends.cudnn.benchmark = True
_DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


class Norm(nn.Module):
  """RMS norm over channels."""

  def forward(self, x):
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


class Flatten(nn.Module):
  """Channels last, as the JAX models flatten."""

  def forward(self, x):
    return x.permute(0, 2, 3, 1).reshape(len(x), -1)


class ResNet8(nn.ModuleList):
  """`hns.networks.residual.resnet8` with ten classes."""

  def __init__(self):
    shapes = [(3, 16, 3)]
    for c, o in ((16, 16), (16, 32), (32, 64)):
      shapes += [(c, o, 3), (o, o, 3), *[(c, o, 1)] * (c != o)]
    convs = [nn.Conv2d(c, o, size, bias=False) for c, o, size in shapes]
    super().__init__([*convs, nn.Linear(64, 10, bias=False)])

  def forward(self, x):
    layers = iter(self)
    x = F.relu(_normed(next(layers), x, 1))
    for stride in (1, 2, 2):
      y = F.relu(_normed(next(layers), x, stride))
      y = _normed(next(layers), y, 1)
      x = y + (_normed(next(layers), x, stride) if stride > 1 else x)
      x = F.relu(x)
    return next(layers)(x.mean((2, 3)))


def _normed(conv, x, stride):
  """A convolution, padded as JAX's SAME, and group norm."""
  if conv.kernel_size == (3, 3):
    x = F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))
  x = F.conv2d(x, conv.weight, stride=stride)
  return F.group_norm(x, min(32, x.shape[1]), eps=1e-6)


def network(model: str) -> nn.Module:
  """The workload's network; images [n, c, h, w]."""
  if model == 'resnet8':
    return ResNet8()
  if model == 'pfl':
    return nn.Sequential(
      *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()),
      *(nn.MaxPool2d(2), Flatten(), nn.Linear(12544, 128), nn.ReLU()),
      nn.Linear(128, 10),
    )
  if model == 'mlp':
    widths, layers = (784, 200, 200), [Flatten()]
  else:
    widths, layers = (1024, 512), []
    for c, o in ((1, 32), (32, 64)):
      layers += [nn.Conv2d(c, o, 5, bias=False), nn.MaxPool2d(2)]
      layers += [Norm(), nn.ReLU()]
    layers += [Flatten()]
  for c, o in zip(widths, widths[1:]):
    layers += [nn.Linear(c, o, bias=False), Norm(), nn.ReLU()]
  return nn.Sequential(*layers, nn.Linear(widths[-1], 10, bias=False))


def _to_torch(problem, prefix, net):
  """Arrays in the order of `net.parameters()`, in PyTorch's layout."""
  layers = [m for m in net if hasattr(m, 'weight')]
  counts, arrays = {}, []
  for layer in layers:
    kind = 'Conv' if isinstance(layer, nn.Conv2d) else 'Dense'
    name = f'{prefix}/{kind}_{counts.setdefault(kind, 0)}'
    counts[kind] += 1
    if f'{name}/kernel' in problem:
      kernel = problem[f'{name}/kernel']
      axes = (3, 2, 0, 1) if kind == 'Conv' else (1, 0)
      arrays.append(torch.tensor(kernel.transpose(axes).copy()))
    if f'{name}/bias' in problem:
      arrays.append(torch.tensor(problem[f'{name}/bias']))
  return [x.to(_DEVICE) for x in arrays]


def _answer(problem, net, arrays):
  """Arrays in the order of `net.parameters()` as one vector in JAX's order."""
  flat, names = {}, {}
  for array, (name, _) in zip(arrays, net.named_parameters()):
    layer = net[int(name.split('.')[0])]
    kind = 'Conv' if isinstance(layer, nn.Conv2d) else 'Dense'
    known = names.setdefault(kind, [])
    if layer not in known:
      known.append(layer)
    array = array.detach().cpu().numpy()
    if array.ndim > 1:
      array = array.transpose((2, 3, 1, 0) if kind == 'Conv' else (1, 0))
    leaf = 'bias' if array.ndim == 1 else 'kernel'
    flat[f'{kind}_{known.index(layer)}/{leaf}'] = array
  return np.concatenate([flat[k].ravel() for k in sorted(flat)])


def _optimizer(method, trained):
  rate = workloads.RATES[method]
  kind = torch.optim.SGD if method == 'fedavg' else torch.optim.Adam
  return kind(trained, lr=rate)


def _loss(net, weights, trained, images, labels):
  """Cross-entropy; for HideNseek of weights x sign, straight-through."""
  if weights is None:
    return F.cross_entropy(net(images), labels)
  signs = [s + (torch.where(s < 0, -1.0, 1.0) - s).detach() for s in trained]
  names = [name for name, _ in net.named_parameters()]
  params = {n: w * s for n, w, s in zip(names, weights, signs)}
  return F.cross_entropy(
    torch.func.functional_call(net, params, (images,)), labels
  )


def _uploaded(method, trained):
  if method == 'fedavg':
    return list(trained)
  return [torch.where(s < 0, -1.0, 1.0) for s in trained]


def torch_lean(problem, workload, method):
  """One model for all clients, updated in place, channels last."""
  net = network(workload.model).to(_DEVICE)
  net = net.to(memory_format=torch.channels_last)
  images = torch.tensor(problem['images']).permute(0, 3, 1, 2).to(_DEVICE)
  labels = torch.tensor(problem['labels']).long().to(_DEVICE)
  batches = torch.tensor(problem['batches']).long().to(_DEVICE)
  start = _to_torch(problem, 'start', net)
  weights = None
  trained = list(net.parameters())
  if method == 'hidenseek':
    weights = _to_torch(problem, 'weights', net)
    trained = [nn.Parameter(s.clone()) for s in start]

  def play():
    total = [torch.zeros_like(s) for s in start]
    for rows in batches:
      with torch.no_grad():
        torch._foreach_copy_(trained, start)
      optimizer = _optimizer(method, trained)
      for chosen in rows:
        optimizer.zero_grad(set_to_none=True)
        _loss(net, weights, trained, images[chosen], labels[chosen]).backward()
        optimizer.step()
      with torch.no_grad():
        torch._foreach_add_(total, _uploaded(method, trained))
    return _answer(problem, net, [t / len(batches) for t in total])

  return play


class _Client:
  """A client with its own model, optimiser and data, as in PFLlib."""

  def __init__(self, net, rows, examples, problem, method):
    self.method, self.model = method, copy.deepcopy(net)
    self.rows, self.examples = rows, examples
    self.weights = None
    self.scores = None
    if method == 'hidenseek':
      self.weights = _to_torch(problem, 'weights', net)
      start = _to_torch(problem, 'start', net)
      self.scores = [nn.Parameter(s.clone()) for s in start]

  def trained(self):
    return self.scores or list(self.model.parameters())

  def set_parameters(self, shared):
    for local, array in zip(self.trained(), shared):
      local.data = array.data.clone()

  def train(self):
    self.model.train()
    optimizer = _optimizer(self.method, self.trained())
    for images, labels in DataLoader(self.examples, batch_sampler=self.rows):
      images, labels = images.to(_DEVICE), labels.to(_DEVICE)
      args = self.model, self.weights, self.trained(), images, labels
      loss = _loss(*args)
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()


def torch_pfllib(problem, workload, method):
  """A model, an optimiser and a data loader for every client."""
  net = network(workload.model).to(_DEVICE)
  images = torch.tensor(problem['images'].transpose(0, 3, 1, 2).copy())
  everything = TensorDataset(images, torch.tensor(problem['labels']).long())
  shared = _to_torch(problem, 'start', net)
  clients = [
    _Client(net, rows.tolist(), everything, problem, method)
    for rows in problem['batches']
  ]

  def play():
    uploads = []
    for client in clients:
      client.set_parameters(shared)
      client.train()
      with torch.no_grad():
        uploads.append(copy.deepcopy(_uploaded(method, client.trained())))
    total = [torch.zeros_like(s) for s in shared]
    with torch.no_grad():
      for upload in uploads:
        for t, u in zip(total, upload):
          t += u.clone() / len(uploads)
    return _answer(problem, net, total)

  return play


def device_bytes() -> int:
  """The peak memory of this process on a GPU; 0 without one."""
  return torch.cuda.max_memory_allocated() if _DEVICE.type == 'cuda' else 0


SIDES = {'torch_lean': torch_lean, 'torch_pfllib': torch_pfllib}
