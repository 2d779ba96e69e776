"""mmcv's operators as their definitions read, one number at a time, in float64.

Everything that has a gradient is written with operations of torch, so that autograd gives it.
"""

import math

import torch


def bilinear(plane, y, x):
    """A plane (H, W) between pixels; ``y`` and ``x`` are inside of it."""
    height, width = plane.shape
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    top = plane[y0, x0] * (1 - fx) + plane[y0, x1] * fx
    bottom = plane[y1, x0] * (1 - fx) + plane[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def roi_align(maps, rois, bins, scale, ratio, mode, aligned):
    """RoIAlign; samples that are more than a pixel outside of the map are 0."""
    height, width = maps.shape[2:]
    rows = []
    for index, *box in rois.double().tolist():
        offset = 0.5 if aligned else 0
        x1, y1, x2, y2 = (c * scale - offset for c in box)
        w, h = x2 - x1, y2 - y1
        if not aligned:
            w, h = max(w, 1), max(h, 1)
        bin_h, bin_w = h / bins[0], w / bins[1]
        ny = ratio or max(math.ceil(bin_h), 0)
        nx = ratio or max(math.ceil(bin_w), 0)
        for plane in maps[int(index)]:
            for i in range(bins[0]):
                for j in range(bins[1]):
                    values = []
                    for k in range(ny):
                        y = y1 + i * bin_h + (k + 0.5) * bin_h / ny
                        for m in range(nx):
                            x = x1 + j * bin_w + (m + 0.5) * bin_w / nx
                            if -1 <= y <= height and -1 <= x <= width:
                                inside = (min(max(y, 0), height - 1), min(max(x, 0), width - 1))
                                values.append(bilinear(plane, *inside))
                            else:
                                values.append(plane.new_zeros(()))
                    if not values:
                        rows.append(plane.new_zeros(()))
                    else:
                        values = torch.stack(values)
                        rows.append(values.mean() if mode == 'avg' else values.max())
    if not rows:
        return maps.new_zeros(len(rois), maps.shape[1], *bins)
    return torch.stack(rows).view(len(rois), maps.shape[1], *bins)


def roi_pool(maps, rois, bins, scale):
    """RoI max pooling by mmcv's rule."""
    height, width = maps.shape[2:]
    rows = []
    for index, x1, y1, x2, y2 in rois.double().tolist():
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        for plane in maps[int(index)]:
            for i in range(bins[0]):
                for j in range(bins[1]):
                    h, w = (y2 - y1) / bins[0], (x2 - x1) / bins[1]
                    top = min(max(math.floor(i * h + y1), 0), height)
                    low = min(max(math.ceil((i + 1) * h + y1), 0), height)
                    left = min(max(math.floor(j * w + x1), 0), width)
                    right = min(max(math.ceil((j + 1) * w + x1), 0), width)
                    empty = h <= 0 or w <= 0 or low <= top or right <= left
                    part = plane[top:low, left:right]
                    rows.append(plane.new_zeros(()) if empty else part.max())
    if not rows:
        return maps.new_zeros(len(rois), maps.shape[1], *bins)
    return torch.stack(rows).view(len(rois), maps.shape[1], *bins)


def deform_roi_pool(maps, rois, offset, bins, scale, ratio, gamma):
    """RoIAlign (aligned) whose bins move; ``offset`` (R, 2, height, width) as (x, y), or None."""
    height, width = maps.shape[2:]
    rows = []
    for number, (index, *box) in enumerate(rois.double().tolist()):
        x1, y1, x2, y2 = (c * scale - 0.5 for c in box)
        w, h = x2 - x1, y2 - y1
        ny = ratio or max(math.ceil(h / bins[0]), 0)
        nx = ratio or max(math.ceil(w / bins[1]), 0)
        for plane in maps[int(index)]:
            for i in range(bins[0]):
                for j in range(bins[1]):
                    dx, dy = (0, 0) if offset is None else gamma * offset[number, :, i, j]
                    total = plane.new_zeros(())
                    for k in range(ny):
                        for m in range(nx):
                            y = y1 + h * dy + (i + (k + 0.5) / ny) * h / bins[0]
                            x = x1 + w * dx + (j + (m + 0.5) / nx) * w / bins[1]
                            if -1 <= y <= height and -1 <= x <= width:
                                y, x = torch.as_tensor(y), torch.as_tensor(x)
                                y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
                                total = total + bilinear(plane, y, x)
                    rows.append(total / max(ny * nx, 1))
    return torch.stack(rows).view(len(rois), maps.shape[1], *bins)


def iou(a, b, offset=0, over_first=False):
    """Of two boxes as lists; NaN for 0 / 0."""
    w = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, 0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, 0)
    size_a, size_b = ((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b))
    total = size_a if over_first else size_a + size_b - w * h
    return w * h / total if total else math.nan


def nms(boxes, order, threshold, offset):
    """Indices that stay; ``order`` lists the boxes from the best to the worst."""
    kept = []
    for i in order:
        if not any(iou(boxes[k], boxes[i], offset) > threshold for k in kept):
            kept.append(i)
    return kept


def nms_match(boxes, order, threshold):
    """Groups of indices, each headed by the box that suppresses the others."""
    groups, left = [], list(order)
    while left:
        head, *left = left
        joins = [i for i in left if iou(boxes[head], boxes[i]) >= threshold]
        groups.append([head, *joins])
        left = [i for i in left if i not in joins]
    return groups


def soft_nms(boxes, scores, threshold, sigma, least, method, offset):
    """Indices and scores of boxes that stay, for scores that are never equal."""
    left, found = dict(enumerate(scores)), []
    while left:
        best = max(left, key=left.get)
        found.append((best, left.pop(best)))
        for i in list(left):
            overlap = iou(boxes[best], boxes[i], offset)
            if method == 'gaussian':
                left[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[i] *= 0 if method == 'naive' else 1 - overlap
            if left[i] < least:
                del left[i]
    return found


def line_nms(lanes, order, threshold, most):
    """Lanes that stay, and for each lane the number of the last one kept that is near it."""
    points = len(lanes[0]) - 5
    kept, parent, gone = [], [0] * len(lanes), set()
    for place, i in enumerate(order):
        if i in gone or len(kept) == most:
            continue
        kept.append(i)
        parent[i] = len(kept)
        for j in order[place + 1 :]:
            starts = [int(lanes[n][2] * (points - 1) + 0.5) for n in (i, j)]
            ends = [start + int(lanes[n][4]) - 1 for start, n in zip(starts, (i, j))]
            first, last = max(starts), min(*ends, points - 1)
            if last < first or first < 0:
                continue
            far = sum(abs(lanes[i][5 + k] - lanes[j][5 + k]) for k in range(first, last + 1))
            if far < threshold * (last - first + 1):
                gone.add(j)
                parent[j] = len(kept)
    return kept, parent


def deform_conv(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    """Deformable convolution; steps are pairs (y, x), ``mask`` and ``bias`` may be None."""
    b, c, height, width = x.shape
    out, per_group, kh, kw = weight.shape
    results = []
    for n in range(b):
        for i in range(offset.shape[2]):
            for j in range(offset.shape[3]):
                seen = []
                for part in range(deform_groups):
                    planes = x[n].view(deform_groups, -1, height, width)[part]
                    for tap in range(kh * kw):
                        at = part * kh * kw + tap
                        y = i * stride[0] - padding[0] + tap // kw * dilation[0]
                        z = j * stride[1] - padding[1] + tap % kw * dilation[1]
                        dy, dx = offset[n, 2 * at, i, j], offset[n, 2 * at + 1, i, j]
                        value = zero_padded(planes, y + dy, z + dx)
                        seen.append(value if mask is None else value * mask[n, at, i, j])
                # (deform_groups, taps, channels) to (groups, channels of a group, taps)
                seen = torch.stack(seen).view(deform_groups, kh * kw, -1).transpose(1, 2)
                seen = seen.reshape(groups, 1, per_group, kh * kw)
                total = (weight.view(groups, -1, per_group, kh * kw) * seen).sum((2, 3)).flatten()
                results.append(total if bias is None else total + bias)
    return torch.stack(results).view(b, *offset.shape[2:], out).permute(0, 3, 1, 2)


def zero_padded(plane, y, x):
    """Planes (..., H, W) between pixels, and 0 outside of them."""
    y0, x0 = math.floor(float(y.detach())), math.floor(float(x.detach()))
    total = plane.new_zeros(plane.shape[:-2])
    for row, of_row in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for column, of_column in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= row < plane.shape[-2] and 0 <= column < plane.shape[-1]:
                total = total + plane[..., row, column] * of_row * of_column
    return total


def deform_attention(value, sizes, locations, weights):
    """Multi-scale deformable attention; arguments as mmcv's."""
    b, _, heads, d = value.shape
    rows = []
    for n in range(b):
        for q in range(locations.shape[1]):
            for head in range(heads):
                total, start = value.new_zeros(d), 0
                for level, (h, w) in enumerate(sizes):
                    part = value[n, start : start + h * w, head].view(h, w, d)
                    start += h * w
                    for p in range(locations.shape[4]):
                        x, y = locations[n, q, head, level, p] * value.new_tensor([w, h]) - 0.5
                        seen = zero_padded(part.permute(2, 0, 1), y, x)
                        total = total + weights[n, q, head, level, p] * seen
                rows.append(total)
    return torch.stack(rows).view(b, -1, heads * d)


def sigmoid_focal_loss(x, target, gamma, alpha, weight):
    """Of every class of every sample; ``weight`` of classes, or None."""
    rows = []
    for logits, label in zip(x, target.tolist()):
        for c, logit in enumerate(logits):
            p = 1 / (1 + torch.exp(-logit))
            if c == label:
                loss = -alpha * (1 - p) ** gamma * torch.log(p)
            else:
                loss = -(1 - alpha) * p**gamma * torch.log(1 - p)
            known = weight is not None and 0 <= label < len(weight)
            rows.append(loss * weight[label] if known else loss)
    return torch.stack(rows).view_as(x) if rows else x * 0


def softmax_focal_loss(x, target, gamma, alpha, weight):
    """Of every sample; those whose target is negative cost nothing."""
    rows = []
    for logits, label in zip(x, target.tolist()):
        p = torch.exp(logits - logits.max()) / torch.exp(logits - logits.max()).sum()
        loss = -alpha * (1 - p[label]) ** gamma * torch.log(p[label])
        loss = loss if label >= 0 else loss * 0
        rows.append(loss if weight is None or label < 0 else loss * weight[label])
    return torch.stack(rows) if rows else x.sum(1)


def carafe(x, masks, kernel, groups, scale):
    """Content-aware upsampling."""
    b, c, height, width = x.shape
    half = kernel // 2
    rows = []
    for n in range(b):
        for channel in range(c):
            group = channel // (c // groups)
            for i in range(height * scale):
                for j in range(width * scale):
                    total = x.new_zeros(())
                    for k in range(kernel * kernel):
                        y, z = i // scale + k // kernel - half, j // scale + k % kernel - half
                        if 0 <= y < height and 0 <= z < width:
                            weight = masks[n, group * kernel * kernel + k, i, j]
                            total = total + x[n, channel, y, z] * weight
                    rows.append(total)
    return torch.stack(rows).view(b, c, height * scale, width * scale)


def psa_mask(x, kind, size):
    """Masks (B, h * w, H, W) over offsets as masks over pixels (B, H * W, H, W)."""
    b, _, height, width = x.shape
    out = x.new_zeros(b, height * width, height, width)
    for h in range(height):
        for w in range(width):
            for i in range(size[0]):
                for j in range(size[1]):
                    y, z = h + i - (size[0] - 1) // 2, w + j - (size[1] - 1) // 2
                    if 0 <= y < height and 0 <= z < width:
                        value = x[:, i * size[1] + j, h, w]
                        if kind == 'collect':
                            out[:, y * width + z, h, w] = value
                        else:
                            out[:, h * width + w, y, z] = value
    return out
