#version 450
layout(constant_id = 1) const uint D = 64;
layout(constant_id = 2) const uint VT = 1;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_merge_slots_params p; };

void main()
{
}
